//! Maps: what programs and this process both read and write.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper among our crates")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::errno::Errno;

use super::{
    memory::{Mapping, page_size},
    object::{BpfError, NAME_BYTES, bpf, make, name, with_locked_memory},
};

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
/// BPF_MAP_TYPE_*.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const SOCKMAP: u32 = 15;
/// Linux 5.8.
const RING_BUFFER: u32 = 27;
/// BPF_F_NO_PREALLOC: an element takes memory when it is there.
const NO_PREALLOC: u32 = 1 << 0;
/// BPF_F_MMAPABLE, Linux 5.5.
const MMAPABLE: u32 = 1 << 10;
/// BPF_NOEXIST of an update.
pub(super) const NO_EXIST: u64 = 1;

/// The first fields of `union bpf_attr` for MAP_CREATE; the kernel takes those that are left out as zeros.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
}

/// The same for the commands of elements.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    descriptor: OwnedFd,
    /// Bytes of a key, and of a value.
    key: usize,
    value: usize,
}

impl Map {
    /// A ring buffer for at least this many bytes of records, and its size.
    ///
    /// # Errors
    /// A kernel before 5.8, or no right to it.
    pub fn ring(title: &'static str, bytes: usize) -> Result<(Self, usize), BpfError> {
        // The kernel wants a power of two and whole pages.
        let size = bytes.max(page_size()).next_power_of_two();
        Ok((Self::create(title, RING_BUFFER, (0, 0), size, 0)?, size))
    }

    /// So many values, all zeros, which this process can map into its memory.
    ///
    /// # Errors
    /// A kernel before 5.5, or no right to it.
    pub fn array(title: &'static str, value: usize, values: usize) -> Result<Self, BpfError> {
        Self::create(title, ARRAY, (size_of::<u32>(), value), values, MMAPABLE)
    }

    /// A table of at most so many elements, which takes memory only for those that are there.
    ///
    /// # Errors
    /// No right to it.
    pub fn hash(title: &'static str, key: usize, value: usize, most: usize) -> Result<Self, BpfError> {
        Self::create(title, HASH, (key, value), most, NO_PREALLOC)
    }

    /// So many places for sockets. A socket is in it until it is closed.
    ///
    /// # Errors
    /// A kernel without it, or no right to it.
    pub fn sockets(title: &'static str, places: usize) -> Result<Self, BpfError> {
        Self::create(title, SOCKMAP, (size_of::<u32>(), size_of::<u64>()), places, 0)
    }

    fn create(
        title: &'static str,
        map_type: u32,
        (key, value): (usize, usize),
        entries: usize,
        map_flags: u32,
    ) -> Result<Self, BpfError> {
        let mut attributes = MapCreate {
            map_type,
            key_size: key as u32,
            value_size: value as u32,
            max_entries: entries as u32,
            map_flags,
            map_name: name(title),
            ..MapCreate::default()
        };
        // SAFETY: the struct is that of BPF_MAP_CREATE, with no addresses in it.
        let descriptor = with_locked_memory(|| unsafe { make(MAP_CREATE, &mut attributes) });
        let descriptor = descriptor.map_err(|source| BpfError::Map { name: title, source })?;
        Ok(Self { descriptor, key, value })
    }

    /// Makes `value` the key's value.
    ///
    /// # Errors
    /// E2BIG: the table is full. Those of the kind of map.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.update(key, value, 0)
    }

    /// The same, unless the key has one, and says whether it did.
    ///
    /// # Errors
    /// As of [`Map::insert`].
    pub fn insert_new(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        match self.update(key, value, NO_EXIST) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        self.fits(key, Some(value.len()))?;
        let mut element = self.element(key, value.as_ptr().expose_provenance(), flags);
        // SAFETY: the struct is that of BPF_MAP_UPDATE_ELEM; key and value are as long as the map's.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut element) }.map(drop)
    }

    /// Fills `value` with the key's value, and says whether it has one.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn find(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.fits(key, Some(value.len()))?;
        let mut element = self.element(key, value.as_mut_ptr().expose_provenance(), 0);
        // SAFETY: the struct is that of BPF_MAP_LOOKUP_ELEM; key and value are as long as the map's.
        there(unsafe { bpf(MAP_LOOKUP_ELEM, &mut element) })
    }

    /// Takes the key out, and says whether it was there.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn remove(&self, key: &[u8]) -> io::Result<bool> {
        self.fits(key, None)?;
        let mut element = self.element(key, 0, 0);
        // SAFETY: the struct is that of BPF_MAP_DELETE_ELEM; the key is as long as the map's.
        there(unsafe { bpf(MAP_DELETE_ELEM, &mut element) })
    }

    /// The kernel reads and writes as much as the map's keys and values have.
    fn fits(&self, key: &[u8], value: Option<usize>) -> io::Result<()> {
        let right = key.len() == self.key && value.is_none_or(|value| value == self.value);
        if right { Ok(()) } else { Err(Errno::EINVAL.into()) }
    }

    fn element(&self, key: &[u8], value: usize, flags: u64) -> Element {
        let key = key.as_ptr().expose_provenance() as u64;
        Element { map_fd: self.descriptor.as_raw_fd().cast_unsigned(), padding: 0, key, value: value as u64, flags }
    }

    /// Maps the first `bytes` of an array into memory, to read and write. A value begins at each multiple of 8 bytes that
    /// has room for one.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn mapping(&self, bytes: usize) -> io::Result<Mapping> {
        Mapping::new(self, bytes, 0, libc::PROT_READ | libc::PROT_WRITE)
    }
}

/// Was the element there?
fn there(result: io::Result<libc::c_int>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn elements_of_a_table_come_and_go_and_it_is_full_at_its_bound() {
        let map = Map::hash("test", 8, 4, 2).unwrap();
        let (one, two, three) = (1_u64.to_ne_bytes(), 2_u64.to_ne_bytes(), 3_u64.to_ne_bytes());
        let mut value = [0; 4];
        assert!(!map.find(&one, &mut value).unwrap() && !map.remove(&one).unwrap());
        assert!(map.insert_new(&one, &[1, 2, 3, 4]).unwrap());
        assert!(!map.insert_new(&one, &[9, 9, 9, 9]).unwrap());
        assert!(map.find(&one, &mut value).unwrap() && value == [1, 2, 3, 4]);
        map.insert(&two, &[5; 4]).unwrap();
        assert_eq!(map.insert_new(&three, &[6; 4]).unwrap_err().raw_os_error(), Some(libc::E2BIG));
        assert!(map.remove(&one).unwrap());
        assert!(map.insert_new(&three, &[6; 4]).unwrap());
        // Shorter ones than the kernel would read.
        assert!(map.insert(&[1], &[5; 4]).is_err() && map.find(&one, &mut []).is_err());
    }

    #[test]
    fn array_is_the_same_by_its_memory_and_by_the_system_call() {
        let map = Map::array("test", 8, 4).unwrap();
        let memory = map.mapping(4 * 8).unwrap();
        memory.word(3).unwrap().store(7, Ordering::Relaxed);
        let mut value = [0; 8];
        assert!(map.find(&1_u32.to_ne_bytes(), &mut value).unwrap());
        assert_eq!(value[4..], 7_u32.to_ne_bytes());
        map.insert(&3_u32.to_ne_bytes(), &[1; 8]).unwrap();
        assert_eq!(memory.word(7).unwrap().load(Ordering::Relaxed), 0x0101_0101);
        assert!(memory.word(8).is_none());
    }
}
