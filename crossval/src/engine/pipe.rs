//! Pipes to a worker, none of which the driver waits on for ever.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Room in a pipe: as much as an unprivileged process may ask for.
const PIPE_BYTES: usize = 1 << 20;

/// One end of a pipe, read or written until a deadline; then the error is [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub(super) struct Timed<P> {
    pipe: P,
    /// When waiting ends.
    pub(super) deadline: Instant,
}

impl<P: AsFd> Timed<P> {
    /// Past its deadline until one is set.
    pub(super) fn new(pipe: P) -> io::Result<Timed<P>> {
        // Activations come in megabytes, and every filling is a change of process. Where the system says no, the pipe
        // stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        Ok(Timed {
            pipe,
            deadline: Instant::now(),
        })
    }

    fn wait(&self, for_what: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.pipe, for_what)], Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl<P: Read + AsFd> Read for Timed<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.pipe.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                done => return done,
            }
        }
    }
}

impl<P: Write + AsFd> Write for Timed<P> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            match self.pipe.write(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn neither_an_empty_pipe_nor_a_full_one_is_waited_on_for_ever() {
        let (reader, writer) = io::pipe().unwrap();
        let (mut reader, mut writer) = (Timed::new(reader).unwrap(), Timed::new(writer).unwrap());
        let soon = || Instant::now() + Duration::from_millis(20);
        reader.deadline = soon();
        let error = reader.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        writer.deadline = soon();
        let error = writer.write_all(&vec![7; 4 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // What is there is read all the same.
        let mut bytes = [0; 100];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 100]);
    }
}
