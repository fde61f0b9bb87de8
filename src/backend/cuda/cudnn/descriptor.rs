//! cuDNN's functions, and its descriptors: things of numbered attributes, which graphs and all that belongs to them are made of.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use crate::backend::cuda::library::functions;
use crate::error::{Error, Result};

pub(super) type Handle = *mut c_void;
pub(super) type Raw = *mut c_void;

functions! {
    Functions;
    cudnnGetVersion() -> usize;
    cudnnCreate(*mut Handle) -> c_int;
    cudnnDestroy(Handle) -> c_int;
    cudnnSetStream(Handle, *mut c_void) -> c_int;
    cudnnGetErrorString(c_int) -> *const c_char;
    cudnnGetLastErrorString(*mut c_char, usize) -> ();
    cudnnBackendCreateDescriptor(c_int, *mut Raw) -> c_int;
    cudnnBackendDestroyDescriptor(Raw) -> c_int;
    cudnnBackendFinalize(Raw) -> c_int;
    cudnnBackendSetAttribute(Raw, c_int, c_int, i64, *const c_void) -> c_int;
    cudnnBackendGetAttribute(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> c_int;
    cudnnBackendExecute(Handle, Raw, Raw) -> c_int;
}

/// cudnnBackendAttributeType_t of each kind of value.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Handle = 0,
    DataType = 1,
    Boolean = 2,
    Int64 = 3,
    Float = 4,
    VoidPointer = 6,
    ConvolutionMode = 7,
    HeuristicMode = 8,
    NumericalNote = 11,
    PointwiseMode = 14,
    #[cfg(test)]
    Character = 24,
    Descriptor = 15,
}

/// A part of a graph, or what is made of one.
pub(super) struct Descriptor {
    pub raw: Raw,
    functions: Arc<Functions>,
}

// SAFETY: descriptors are plain data of the library's, used by one thread at a time.
unsafe impl Send for Descriptor {}
// SAFETY: as above; one that is finished is only read.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    /// An empty one of a type.
    pub fn new(functions: &Arc<Functions>, of: c_int) -> Result<Descriptor> {
        let mut raw = null_mut();
        // SAFETY: a place for the descriptor.
        functions.check(unsafe { (functions.cudnnBackendCreateDescriptor)(of, &mut raw) })?;
        Ok(Descriptor { raw, functions: functions.clone() })
    }

    pub fn set<T>(&self, attribute: c_int, kind: Kind, values: &[T]) -> Result<()> {
        let (count, at) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: so many values of the kind's type lie there.
        let code = unsafe { (self.functions.cudnnBackendSetAttribute)(self.raw, attribute, kind as c_int, count, at) };
        self.functions.check(code)
    }

    /// Fills `values`; returns how many there are, at most so many.
    pub fn get<T>(&self, attribute: c_int, kind: Kind, values: &mut [T]) -> Result<usize> {
        let (room, at, mut count) = (values.len() as i64, values.as_mut_ptr().cast(), 0);
        // SAFETY: there is room for so many values of the kind's type.
        let code = unsafe {
            (self.functions.cudnnBackendGetAttribute)(self.raw, attribute, kind as c_int, room, &mut count, at)
        };
        self.functions.check(code)?;
        Ok(count.clamp(0, room) as usize)
    }

    pub fn finalize(&self) -> Result<()> {
        // SAFETY: the descriptor is alive.
        self.functions.check(unsafe { (self.functions.cudnnBackendFinalize)(self.raw) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created above, destroyed once.
        unsafe { (self.functions.cudnnBackendDestroyDescriptor)(self.raw) };
    }
}

impl Functions {
    pub fn check(&self, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut last = [0 as c_char; 1024];
        // SAFETY: the texts end with zeros; there is room for as many characters as it is told.
        let (text, last) = unsafe {
            (self.cudnnGetLastErrorString)(last.as_mut_ptr(), last.len());
            (
                CStr::from_ptr((self.cudnnGetErrorString)(code)).to_string_lossy(),
                CStr::from_ptr(last.as_ptr()).to_string_lossy(),
            )
        };
        Err(Error::device(format!("NVIDIA's cuDNN fails: {text} {}", last.replace('\n', " "))))
    }
}
