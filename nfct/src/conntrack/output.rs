//! Printing an object: one line of text, or XML.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use libc::{c_char, c_int, c_uint};
use nfct_sys as sys;

use super::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::event::EventKind;
use crate::labels::LabelMap;

/// How to print an object: the choices of `conntrack -o`.
///
/// ```
/// use nfct::{Conntrack, EventKind, Output, Tuple};
///
/// let mut entry = Conntrack::new()?;
/// entry.set_original(&Tuple::udp(([10, 0, 0, 1], 40000), ([192, 0, 2, 1], 53)))?.setup_reply()?;
/// assert_eq!(
///     entry.print(&Output::plain().kind(EventKind::New).layer3())?,
///     "    [NEW] ipv4     2 udp      17 src=10.0.0.1 dst=192.0.2.1 sport=40000 dport=53 \
///      src=192.0.2.1 dst=10.0.0.1 sport=53 dport=40000"
/// );
/// assert!(entry.print(&Output::xml())?.starts_with("<flow><meta direction=\"original\">"));
/// # Ok::<(), nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    format: u32,
    flags: u32,
    kind: u32,
    labels: Option<&'a LabelMap>,
}

impl<'a> Output<'a> {
    /// One line of text, as `conntrack -L` prints it.
    ///
    /// ```
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// assert!(entry.print(&Output::plain())?.starts_with("tcp"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn plain() -> Self {
        Self { format: sys::NFCT_O_PLAIN, flags: 0, kind: sys::NFCT_T_UNKNOWN as u32, labels: None }
    }

    /// XML, as `conntrack -o xml` prints it. The library does not escape names of helpers and security
    /// contexts. In XML it prints the states of SCTP and DCCP with TCP's names, in text with their own.
    ///
    /// ```
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// assert!(entry.print(&Output::xml())?.starts_with("<flow>"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn xml() -> Self {
        Self { format: sys::NFCT_O_XML, ..Self::plain() }
    }

    /// With a kind of event.
    ///
    /// ```
    /// # use nfct::EventKind;
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// assert!(entry.print(&Output::plain().kind(EventKind::New))?.contains("[NEW]"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn kind(mut self, kind: EventKind) -> Self {
        self.kind = match kind {
            EventKind::New => sys::NFCT_T_NEW as u32,
            EventKind::Update => sys::NFCT_T_UPDATE as u32,
            EventKind::Destroy => sys::NFCT_T_DESTROY as u32,
        };
        self
    }

    /// With the network protocol, in text.
    ///
    /// ```
    /// # use nfct::Layer3;
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// entry.set(attr::ORIG_L3PROTO, Layer3::Ipv4)?;
    /// assert!(entry.print(&Output::plain().layer3())?.starts_with("ipv4"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn layer3(self) -> Self {
        self.with(sys::NFCT_OF_SHOW_LAYER3)
    }

    /// With the local time of printing, in XML.
    ///
    /// ```
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// assert!(entry.print(&Output::xml().time())?.contains("<when>"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn time(self) -> Self {
        self.with(sys::NFCT_OF_TIME)
    }

    /// With the kernel's id, in text; XML always has it.
    ///
    /// ```
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// entry.set(attr::ID, 7)?;
    /// assert!(entry.print(&Output::plain().id())?.contains("id=7"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn id(self) -> Self {
        self.with(sys::NFCT_OF_ID)
    }

    /// With the start and the end of the connection.
    ///
    /// ```
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// # let mut entry = Conntrack::new()?;
    /// # entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// // This entry has no times to print.
    /// assert!(!entry.print(&Output::plain().timestamps())?.is_empty());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn timestamps(self) -> Self {
        self.with(sys::NFCT_OF_TIMESTAMP)
    }

    /// With the labels that have a name in `map`.
    ///
    /// ```no_run
    /// let map = nfct::LabelMap::system()?;
    /// let entry = nfct::Conntrack::new()?;
    /// println!("{}", entry.print(&nfct::Output::plain().labels(&map))?);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const fn labels(self, map: &'a LabelMap) -> Self {
        Self { labels: Some(map), ..self }
    }

    /// Format, flags and kind as the library's printing functions take them.
    pub(crate) const fn numbers(&self) -> (u32, u32, u32) {
        (self.format, self.flags, self.kind)
    }

    const fn with(mut self, flag: u32) -> Self {
        self.flags |= flag;
        self
    }
}

/// In XML and with timestamps the library prints through memory that all threads share.
static PRINTING: Mutex<()> = Mutex::new(());

/// The output of a printing function of the library. `print` is called with a buffer and its size until
/// the complete output fits. Returns `None` if the library reports an error.
pub(crate) fn printed(mut print: impl FnMut(*mut c_char, c_uint) -> c_int) -> Option<String> {
    /// With labels, the library stops counting at the end of the buffer, and it removes bytes at the end of
    /// its output. If at least this much of the buffer is unused, the output is complete.
    const SPARE: usize = 16;
    let mut buffer: Vec<u8> = vec![0; 1024];
    loop {
        let size = c_uint::try_from(buffer.len()).ok()?;
        let written = {
            let _alone = PRINTING.lock().unwrap_or_else(PoisonError::into_inner);
            print(buffer.as_mut_ptr().cast::<c_char>(), size)
        };
        let length = usize::try_from(written).ok()?;
        if length + SPARE < buffer.len() {
            buffer.truncate(length);
            return Some(String::from_utf8_lossy(&buffer).into_owned());
        }
        let larger = buffer.len().max(length).checked_mul(2)?;
        buffer.resize(larger, 0);
    }
}

impl ConntrackRef {
    /// Prints the entry as the library does.
    ///
    /// ```
    /// # use nfct::{Conntrack, Output, Protocol, attr};
    /// let mut entry = Conntrack::new()?;
    /// assert!(entry.print(&Output::plain()).is_err());
    /// entry.set(attr::ORIG_L4PROTO, Protocol::Tcp)?;
    /// assert!(entry.print(&Output::plain().id().timestamps().time())?.starts_with("tcp      6"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for text if the entry has no transport protocol, or no network protocol with
    /// [`Output::layer3`].
    pub fn print(&self, output: &Output<'_>) -> Result<String, Error> {
        let Output { format, flags, kind, labels } = *output;
        let map = labels.map_or(std::ptr::null_mut(), LabelMap::as_ptr);
        let text = printed(|buffer, size| {
            // SAFETY: `size` bytes to write to, a live object and a live map, or none; both are only read.
            unsafe { sys::nfct_snprintf_labels(buffer, size, self.as_ptr(), kind, format, flags, map) }
        });
        text.ok_or_else(|| Error::Invalid {
            doing: "printing an entry",
            found: "no transport or network protocol".to_owned(),
            expected: "an entry with both",
        })
    }
}

/// Writes what `conntrack -L` prints. For an object without protocols writes its attributes.
impl fmt::Display for ConntrackRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.print(&Output::plain()) {
            Ok(text) => f.pad(&text),
            Err(_) => fmt::Debug::fmt(self, f),
        }
    }
}

impl fmt::Display for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
