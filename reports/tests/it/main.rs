//! Every writer on sample reports: passing, failing, cut short, empty, hostile, arbitrary.

mod hostile;
mod html;
mod json;
mod markdown;
mod robust;
mod sample;
mod write;
