//! How far the work is, as events: whoever shows it decides how.

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another stage begins.
    Stage(String),
    /// From now on so many steps are to be done, and none is.
    Steps(u64),
    /// So many more are to be done.
    MoreSteps(u64),
    /// So many were done.
    Done(u64),
}

/// Where events go.
#[derive(Clone, Copy)]
pub struct Progress<'a>(&'a dyn Fn(Event));

impl<'a> Progress<'a> {
    /// To a function.
    pub fn to(sink: &'a dyn Fn(Event)) -> Progress<'a> {
        Progress(sink)
    }

    /// To nobody.
    pub fn silent() -> Progress<'static> {
        Progress(&|_| ())
    }

    /// Another stage begins.
    pub fn stage(self, name: impl Into<String>) {
        (self.0)(Event::Stage(name.into()));
    }

    /// So many steps are to be done from now on.
    pub fn steps(self, n: u64) {
        (self.0)(Event::Steps(n));
    }

    /// So many more are to be done.
    pub fn more_steps(self, n: u64) {
        (self.0)(Event::MoreSteps(n));
    }

    /// So many were done.
    pub fn done(self, n: u64) {
        (self.0)(Event::Done(n));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn events_come_in_order() {
        let events = RefCell::new(Vec::new());
        let sink = |event| events.borrow_mut().push(event);
        let progress = Progress::to(&sink);
        progress.stage("loading");
        progress.steps(3);
        progress.done(1);
        Progress::silent().done(2);
        let expected = [
            Event::Stage("loading".to_owned()),
            Event::Steps(3),
            Event::Done(1),
        ];
        assert_eq!(events.into_inner(), expected);
    }
}
