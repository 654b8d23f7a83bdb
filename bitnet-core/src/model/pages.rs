//! Large buffers.

use memmap2::{Advice, MmapMut};

/// `bytes` of zeros, aligned to a page; `None` if there is no memory. In huge pages where the system has them: fewer
/// faults, and fewer addresses to look up while they are read.
pub(super) fn zeroed(bytes: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(bytes).ok()?;
    let _ = map.advise(Advice::HugePage);
    Some(map)
}
