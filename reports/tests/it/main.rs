//! Every writer on sample reports: passing, failing, arbitrated, excused, cut short, empty, hostile, arbitrary.

mod comparison;
mod conditions;
mod findings;
mod gate;
mod hostile;
mod html;
mod json;
mod judged;
mod junit;
mod markdown;
mod records;
mod robust;
mod sample;
mod spot_check;
mod terminal;
mod tokens;
mod trace;
mod write;
