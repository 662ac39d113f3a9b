//! Connection labels: sets of bits, and the file with their names.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use nfct_sys as sys;

use crate::error::Error;
use crate::owned::{Cloned, Object, Owned};

/// A set of connection labels, by bit number: the library's bitmask.
///
/// The kernel keeps 128 labels for each entry, bits 0 to 127.
///
/// ```
/// use nfct::Labels;
///
/// let mut labels = Labels::new(127)?;
/// labels.set(3)?;
/// labels.set(127)?;
/// assert!(labels.contains(3) && !labels.contains(4));
/// assert_eq!(labels.iter().collect::<Vec<_>>(), [3, 127]);
/// # Ok::<(), nfct::Error>(())
/// ```
pub struct Labels {
    raw: Owned<sys::nfct_bitmask>,
}

// SAFETY: `nfct_bitmask_destroy` frees what `nfct_bitmask_new` and `nfct_bitmask_clone` return. Bitmasks
// share no memory, and the functions that read them do not write.
unsafe impl Object for sys::nfct_bitmask {
    const DESTROY: unsafe extern "C" fn(*mut Self) = sys::nfct_bitmask_destroy;
}

// SAFETY: `nfct_bitmask_clone` only reads, and returns NULL when memory runs out.
unsafe impl Cloned for sys::nfct_bitmask {
    const CLONE: unsafe extern "C" fn(*const Self) -> *mut Self = sys::nfct_bitmask_clone;
}

impl Labels {
    /// An empty set for bits 0 to `highest`, rounded up to a multiple of 32 bits.
    ///
    /// ```
    /// assert_eq!(nfct::Labels::new(100)?.highest(), 127);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn new(highest: u16) -> Result<Self, Error> {
        // SAFETY: takes any number; NULL means no memory and is checked next.
        let raw = unsafe { sys::nfct_bitmask_new(highest.into()) };
        // SAFETY: NULL, or a new bitmask that nothing else refers to.
        let raw = unsafe { Owned::new(raw) };
        raw.map(|raw| Self { raw }).ok_or_else(|| Error::last("creating a set of labels"))
    }

    /// The highest bit that can be set.
    ///
    /// ```
    /// assert_eq!(nfct::Labels::new(31)?.highest(), 31);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn highest(&self) -> u16 {
        // SAFETY: a live bitmask.
        let highest = unsafe { sys::nfct_bitmask_maxbit(self.raw.as_ptr()) };
        u16::try_from(highest).unwrap_or(u16::MAX)
    }

    /// Sets a bit.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(3)?.set(127)?;
    /// assert!(labels.set(128).is_err());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bit past [`Labels::highest`]: the library would ignore it without an error.
    pub fn set(&mut self, bit: u16) -> Result<&mut Self, Error> {
        if bit > self.highest() {
            return Err(Error::Invalid {
                doing: "setting a label",
                found: format!("bit {bit} of a set that ends at bit {}", self.highest()),
                expected: "a bit up to the end of the set (Labels::new sets the end)",
            });
        }
        // SAFETY: a live bitmask that is borrowed for writing.
        unsafe { sys::nfct_bitmask_set_bit(self.raw.as_ptr(), bit.into()) };
        Ok(self)
    }

    /// Unsets a bit.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(3)?.unset(3);
    /// assert!(!labels.contains(3));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn unset(&mut self, bit: u16) -> &mut Self {
        // SAFETY: a live bitmask that is borrowed for writing; a bit past its end is ignored.
        unsafe { sys::nfct_bitmask_unset_bit(self.raw.as_ptr(), bit.into()) };
        self
    }

    /// Unsets all bits.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(3)?.clear();
    /// assert_eq!(labels.iter().count(), 0);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn clear(&mut self) -> &mut Self {
        // SAFETY: a live bitmask that is borrowed for writing.
        unsafe { sys::nfct_bitmask_clear(self.raw.as_ptr()) };
        self
    }

    /// Whether a bit is set.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(3)?;
    /// assert!(labels.contains(3) && !labels.contains(4));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn contains(&self, bit: u16) -> bool {
        // SAFETY: a live bitmask; a bit past its end is not set.
        unsafe { sys::nfct_bitmask_test_bit(self.raw.as_ptr(), bit.into()) != 0 }
    }

    /// The bits that are set, in rising order.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(9)?.set(3)?;
    /// assert!(labels.iter().eq([3, 9]));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=self.highest()).filter(|bit| self.contains(*bit))
    }

    /// A copy of a bitmask that the library owns.
    ///
    /// # Safety
    /// `raw` is a live bitmask.
    pub(crate) unsafe fn copy_of(raw: NonNull<sys::nfct_bitmask>) -> Self {
        // SAFETY: the caller vouches for the bitmask.
        Self { raw: unsafe { Owned::copy_of(raw.as_ptr()) } }
    }

    /// Leaves it to the caller to free the bitmask, or to pass it to the library.
    pub(crate) fn into_raw(self) -> NonNull<sys::nfct_bitmask> {
        self.raw.into_raw()
    }
}

impl Clone for Labels {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone() }
    }
}

/// Two sets are equal if they end at the same bit and the same bits are set.
impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        // SAFETY: two live bitmasks.
        unsafe { sys::nfct_bitmask_equal(self.raw.as_ptr(), other.raw.as_ptr()) }
    }
}

impl Eq for Labels {}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Names of connection labels, read from a file: on each line a bit number and a name.
///
/// ```no_run
/// let map = nfct::LabelMap::system()?;
/// if let Some(bit) = map.bit("customer-traffic") {
///     println!("customer-traffic is bit {bit}");
/// }
/// # Ok::<(), nfct::Error>(())
/// ```
pub struct LabelMap {
    raw: Owned<sys::nfct_labelmap>,
}

// SAFETY: `nfct_labelmap_destroy` frees what `nfct_labelmap_new` returns. Maps share no memory, and the
// library never changes a map after it has read it.
unsafe impl Object for sys::nfct_labelmap {
    const DESTROY: unsafe extern "C" fn(*mut Self) = sys::nfct_labelmap_destroy;
}

impl LabelMap {
    /// Reads the system's file, [`LabelMap::system_path`].
    ///
    /// # Errors
    /// As [`LabelMap::open`].
    pub fn system() -> Result<Self, Error> {
        Self::open(Self::system_path())
    }

    /// The path where the library looks for the system's file.
    ///
    /// ```
    /// assert_eq!(nfct::LabelMap::system_path().file_name().unwrap(), "connlabel.conf");
    /// ```
    pub fn system_path() -> &'static Path {
        // SAFETY: takes nothing and returns a constant of the library.
        let path = unsafe { sys::nfct_labels_get_path() };
        // SAFETY: the constant is a C string that lives as long as the library.
        let path = unsafe { CStr::from_ptr(path) };
        Path::new(OsStr::from_bytes(path.to_bytes()))
    }

    /// Reads a file. The library ignores lines that begin with `#`, numbers past 1023, and names with
    /// characters other than letters, digits, spaces and hyphens.
    ///
    /// ```
    /// let path = std::env::temp_dir().join(format!("labels-{}", std::process::id()));
    /// std::fs::write(&path, "3 seen-by-proxy\n")?;
    /// let map = nfct::LabelMap::open(&path)?;
    /// assert_eq!(map.bit("seen-by-proxy"), Some(3));
    /// assert_eq!(map.name(3), Some("seen-by-proxy"));
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The system's error if the file cannot be opened, [`Error::Invalid`] if it names no label.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        const DOING: &str = "reading the names of labels";
        let path = path.as_ref();
        let invalid = |expected| Error::Invalid { doing: DOING, found: path.display().to_string(), expected };
        let name =
            CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid("a path without a zero byte"))?;
        // The library returns NULL for a file without labels too: errno is 0 then.
        // SAFETY: takes nothing.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: it is this thread's own, and always exists.
        unsafe { *errno = 0 };
        // SAFETY: a C string that outlives the call; NULL is checked next.
        let raw = unsafe { sys::nfct_labelmap_new(name.as_ptr()) };
        let error = std::io::Error::last_os_error();
        // SAFETY: NULL, or a new map that nothing else refers to.
        match unsafe { Owned::new(raw) } {
            Some(raw) => Ok(Self { raw }),
            None if error.raw_os_error() == Some(0) => {
                Err(invalid("a file with a line such as `3 customer-traffic`"))
            }
            None => Err(Error::from_io(DOING, error)),
        }
    }

    /// The name of a bit, if it has one.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("labels-of-{}-name", std::process::id()));
    /// # std::fs::write(&path, "3 seen\n").unwrap();
    /// # let map = nfct::LabelMap::open(&path)?;
    /// # std::fs::remove_file(&path).unwrap();
    /// // From a file with the line `3 seen`:
    /// assert_eq!((map.name(3), map.name(4)), (Some("seen"), None));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn name(&self, bit: u16) -> Option<&str> {
        // SAFETY: a live map, which reading does not change.
        let name = unsafe { sys::nfct_labelmap_get_name(self.raw.as_ptr(), bit.into()) };
        let name = NonNull::new(name.cast_mut())?;
        // SAFETY: a C string of the map, which lives as long as the map and never changes.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        name.to_str().ok().filter(|name| !name.is_empty())
    }

    /// The bit of a name, if the file has it.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("labels-of-{}-bit", std::process::id()));
    /// # std::fs::write(&path, "3 seen\n").unwrap();
    /// # let map = nfct::LabelMap::open(&path)?;
    /// # std::fs::remove_file(&path).unwrap();
    /// // From a file with the line `3 seen`:
    /// assert_eq!((map.bit("seen"), map.bit("lost")), (Some(3), None));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn bit(&self, name: &str) -> Option<u16> {
        let name = CString::new(name).ok()?;
        // SAFETY: a live map, which reading does not change, and a C string.
        let bit = unsafe { sys::nfct_labelmap_get_bit(self.raw.as_ptr(), name.as_ptr()) };
        u16::try_from(bit).ok()
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::nfct_labelmap {
        self.raw.as_ptr()
    }
}

impl fmt::Debug for LabelMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library reads no bit past this.
        f.debug_map().entries((0..1024).filter_map(|bit| Some((bit, self.name(bit)?)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_accepts_bits_up_to_its_end_and_no_others() {
        let mut labels = Labels::new(0).unwrap();
        assert_eq!(labels.highest(), 31);
        labels.set(31).unwrap().set(0).unwrap();
        assert!(labels.set(32).unwrap_err().to_string().contains("bit 32"));
        assert_eq!(format!("{labels:?}"), "{0, 31}");
        let copy = labels.clone();
        assert_eq!(copy, labels);
        labels.unset(31).unset(32);
        assert_ne!(copy, labels);
        labels.clear();
        assert_eq!(labels, Labels::new(31).unwrap());
        assert_ne!(labels, Labels::new(32).unwrap(), "another end");
        let mut largest = Labels::new(u16::MAX).unwrap();
        largest.set(u16::MAX).unwrap();
        assert_eq!(largest.iter().collect::<Vec<_>>(), [u16::MAX]);
    }

    #[test]
    fn a_map_is_read_from_a_file_and_a_bad_file_says_why() {
        let file = |name: &str, text: &str| {
            let path = std::env::temp_dir().join(format!("nfct-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            path
        };
        let good = file("good", "# names\n0 zero\n127 last one\n0x3 three\n2000 too high\n5 b<ad\n");
        let map = LabelMap::open(&good).unwrap();
        assert_eq!((map.bit("zero"), map.bit("last one"), map.bit("three")), (Some(0), Some(127), Some(3)));
        assert_eq!((map.bit("too high"), map.bit("b<ad"), map.bit("ze\0ro")), (None, None, None));
        assert_eq!((map.name(3), map.name(4), map.name(u16::MAX)), (Some("three"), None, None));
        assert_eq!(format!("{map:?}"), r#"{0: "zero", 3: "three", 127: "last one"}"#);
        let empty = file("empty", "# nothing\n");
        let error = LabelMap::open(&empty).unwrap_err().to_string();
        assert!(error.contains("expected a file with a line such as"), "{error}");
        for path in [&good, &empty] {
            std::fs::remove_file(path).unwrap();
        }
        assert_eq!(LabelMap::open(&good).unwrap_err().errno(), Some(libc::ENOENT));
        assert!(LabelMap::open("a\0b").is_err());
    }

    #[test]
    fn the_systems_map_is_the_one_at_its_path() {
        let path = LabelMap::system_path();
        assert!(path.is_absolute() && path.ends_with("connlabel.conf"), "{}", path.display());
        let names =
            |map: Result<LabelMap, Error>| map.map(|map| format!("{map:?}")).map_err(|error| error.errno());
        assert_eq!(names(LabelMap::system()), names(LabelMap::open(path)));
    }
}
