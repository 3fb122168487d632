//! The structures that providers and the library share (`openssl/core.h`).

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::ptr;

/// Kinds of parameters: `OSSL_PARAM_INTEGER`, `OSSL_PARAM_UNSIGNED_INTEGER`, `OSSL_PARAM_UTF8_PTR`.
pub(crate) const INTEGER: c_uint = 1;
pub(crate) const UNSIGNED: c_uint = 2;
pub(crate) const UTF8_POINTER: c_uint = 6;

/// Size of a parameter that was not set: `OSSL_PARAM_UNMODIFIED`.
const UNMODIFIED: usize = usize::MAX;

/// A pointer to a function, whose type follows from its number.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Function(pub(crate) *const ());

/// `OSSL_DISPATCH`: a function and its number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dispatch {
    pub(crate) number: c_int,
    pub(crate) function: Function,
}

// SAFETY: functions are never written to.
unsafe impl Sync for Dispatch {}

impl Dispatch {
    pub(crate) const END: Self = Self::new(0, ptr::null());

    pub(crate) const fn new(number: c_int, function: *const ()) -> Self {
        Self { number, function: Function(function) }
    }
}

/// `OSSL_ALGORITHM`.
#[repr(C)]
pub(crate) struct Algorithm {
    pub(crate) names: *const c_char,
    pub(crate) properties: *const c_char,
    pub(crate) functions: *const Dispatch,
    pub(crate) description: *const c_char,
}

// SAFETY: all pointers are to constants.
unsafe impl Sync for Algorithm {}

impl Algorithm {
    pub(crate) const END: Self = Self {
        names: ptr::null(),
        properties: ptr::null(),
        functions: ptr::null(),
        description: ptr::null(),
    };
}

/// `OSSL_PARAM`: a name, and room for a value.
#[repr(C)]
pub(crate) struct Param {
    key: *const c_char,
    kind: c_uint,
    data: *mut c_void,
    size: usize,
    returned: usize,
}

// SAFETY: those that are shared are constants, whose only pointer is to a name.
unsafe impl Sync for Param {}

impl Param {
    pub(crate) const END: Self =
        Self { key: ptr::null(), kind: 0, data: ptr::null_mut(), size: 0, returned: 0 };

    /// The description of a parameter that can be asked for.
    pub(crate) const fn described(key: &'static CStr, kind: c_uint) -> Self {
        Self { key: key.as_ptr(), kind, data: ptr::null_mut(), size: 0, returned: UNMODIFIED }
    }

    /// Sets the value. Returns whether it fits.
    ///
    /// # Safety
    /// The parameter's data is null, or has as many bytes as its size says, which can be written to.
    unsafe fn set(&mut self, value: Value) -> bool {
        match (value, self.kind) {
            (Value::Text(text), UTF8_POINTER) => {
                self.returned = text.count_bytes();
                if !self.data.is_null() {
                    // SAFETY: data of this kind is a place for a pointer.
                    unsafe { self.data.cast::<*const c_char>().write_unaligned(text.as_ptr()) };
                }
                true
            }
            (Value::Number(number), INTEGER | UNSIGNED) => {
                if self.data.is_null() {
                    self.returned = size_of::<c_uint>();
                    return true;
                }
                self.returned = self.size;
                let bytes = number.to_le_bytes();
                for index in 0..self.size {
                    let byte = bytes.get(index).copied().unwrap_or(0);
                    // SAFETY: the data has as many bytes as its size says.
                    unsafe { self.data.cast::<u8>().add(index).write(byte) };
                }
                bytes.iter().skip(self.size).all(|byte| *byte == 0)
            }
            _ => false,
        }
    }
}

/// A parameter's value.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// A text that is there for ever.
    Text(&'static CStr),
    /// A number below 2³¹, so that it is the same with and without a sign.
    Number(u32),
}

/// The name of a parameter, which ends with a zero byte.
#[derive(Clone, Copy)]
pub(crate) struct Name(*const c_char);

impl Name {
    /// Whether it is this one. The language's own comparison would ask a C library for its length.
    pub(crate) fn is(self, known: &CStr) -> bool {
        known.to_bytes_with_nul().iter().enumerate().all(|(index, byte)| {
            // SAFETY: all bytes before this one are equal, and none of them was the end.
            *byte == unsafe { self.0.cast::<u8>().add(index).read() }
        })
    }
}

/// Sets those parameters that `value` knows. Returns whether all of them fit.
///
/// # Safety
/// `params` is null or a list with an end, whose names end with a zero byte.
pub(crate) unsafe fn answer(mut params: *mut Param, value: impl Fn(Name) -> Option<Value>) -> bool {
    let mut whole = true;
    if params.is_null() {
        return whole;
    }
    // SAFETY: the list has an end, before which each entry has a name.
    while let Some(param) = unsafe { params.as_mut() }.filter(|param| !param.key.is_null()) {
        if let Some(value) = value(Name(param.key)) {
            // SAFETY: the list's entries are as the library declares them.
            whole &= unsafe { param.set(value) };
        }
        // SAFETY: this was not the end.
        params = unsafe { params.add(1) };
    }
    whole
}
