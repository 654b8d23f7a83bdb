//! The page cache: what a cold load needs out of the way.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use memmap2::Mmap;

use crate::session::model_file;

/// Drops the pages of a model's files from the page cache. `Ok` means that none are left; no process may have one mapped.
///
/// # Errors
/// Why they could not be dropped, as a clause.
pub(super) fn drop_pages(model: &Path) -> Result<(), String> {
    let paths = model_file::paths(model).map_err(|e| e.to_string())?;
    paths.iter().try_for_each(|path| drop_pages_of(path))
}

fn drop_pages_of(path: &Path) -> Result<(), String> {
    let failed = |e: io::Error| format!("the page cache cannot be dropped: {e}");
    let file = File::open(path).map_err(failed)?;
    // Pages that are not on the disk yet stay.
    file.sync_all().map_err(failed)?;
    // SAFETY: the descriptor is open; the call takes no pointer.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if error != 0 {
        return Err(failed(io::Error::from_raw_os_error(error)));
    }
    match resident(&file).map_err(failed)? {
        (0, _) => Ok(()),
        (left, pages) => Err(format!(
            "{left} of the file's {pages} pages stay in the page cache"
        )),
    }
}

/// Pages of a file that the page cache holds, and how many it has. Of a file that is not the caller's to write, the
/// kernel says that it holds all.
fn resident(file: &File) -> io::Result<(usize, usize)> {
    if file.metadata()?.len() == 0 {
        return Ok((0, 0));
    }
    // SAFETY: nothing is read through the map, so that nothing can be wrong with what the file holds.
    let map = unsafe { Mmap::map(file)? };
    // SAFETY: takes a number, returns a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
        .map_err(io::Error::other)?
        .max(1);
    let mut pages = vec![0u8; map.len().div_ceil(page)];
    // SAFETY: the map is page-aligned and `map.len()` long, and `pages` has a byte for each of its pages.
    let result = unsafe {
        libc::mincore(
            map.as_ptr().cast_mut().cast(),
            map.len(),
            pages.as_mut_ptr().cast(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let held = pages.iter().filter(|&&page| page & 1 != 0).count();
    Ok((held, pages.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_just_written_is_in_the_cache_until_it_is_dropped() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 300_000]).unwrap();
        let (held, pages) = resident(file.as_file()).unwrap();
        assert_eq!(held, pages);
        match drop_pages_of(file.path()) {
            Ok(()) => assert_eq!(resident(file.as_file()).unwrap().0, 0),
            // A file system in memory has nowhere to drop it to.
            Err(why) => assert!(why.contains("page cache"), "{why}"),
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_a_reason() {
        let why = drop_pages(Path::new("/no/such/file")).unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }
}
