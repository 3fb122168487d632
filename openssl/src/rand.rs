//! The generator (provider-rand(7)): it has no state, so there is nothing to seed, to lock or to copy.

use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::abi::{self, Dispatch, Param, Value};
use crate::kernel;

/// `OSSL_FUNC_CRYPTO_ZALLOC` and `OSSL_FUNC_CRYPTO_CLEAR_FREE`.
const ALLOCATE: c_int = 21;
const FREE: c_int = 24;

/// Bits of security strength, as of the library's own generator.
const STRENGTH: c_uint = 256;
/// Most bytes of one request; the library divides larger ones.
const MAX_REQUEST: u32 = 1 << 20;
/// `EVP_RAND_STATE_READY`.
const READY: u32 = 1;

type Allocate = unsafe extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, usize, *const c_char, c_int);

static ALLOCATOR: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static FREER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// What stands for the state that there is not: contexts are told from none by their address.
static CONTEXT: u8 = 0;

pub(crate) static FUNCTIONS: [Dispatch; 16] = [
    Dispatch::new(1, new_context as *const ()),
    Dispatch::new(2, free_context as *const ()),
    Dispatch::new(3, instantiate as *const ()),
    Dispatch::new(4, uninstantiate as *const ()),
    Dispatch::new(5, generate as *const ()),
    Dispatch::new(6, reseed as *const ()),
    Dispatch::new(7, nonce as *const ()),
    Dispatch::new(8, succeed as *const ()),
    Dispatch::new(12, gettable_params as *const ()),
    Dispatch::new(13, settable_params as *const ()),
    Dispatch::new(15, get_params as *const ()),
    Dispatch::new(16, set_params as *const ()),
    Dispatch::new(17, succeed as *const ()),
    Dispatch::new(18, get_seed as *const ()),
    Dispatch::new(19, clear_seed as *const ()),
    Dispatch::END,
];

static PARAMS: [Param; 4] = [
    Param::described(c"state", abi::INTEGER),
    Param::described(c"strength", abi::UNSIGNED),
    Param::described(c"max_request", abi::UNSIGNED),
    Param::END,
];
static NO_PARAMS: [Param; 1] = [Param::END];

/// Notes the library's functions that are needed here.
///
/// # Safety
/// `functions` is a list with an end.
pub(crate) unsafe fn learn(mut functions: *const Dispatch) {
    // SAFETY: the list has an end, whose number is 0.
    while let Some(entry) = unsafe { functions.as_ref() }.filter(|entry| entry.number != 0) {
        match entry.number {
            ALLOCATE => ALLOCATOR.store(entry.function.0.cast_mut(), Ordering::Relaxed),
            FREE => FREER.store(entry.function.0.cast_mut(), Ordering::Relaxed),
            _ => {}
        }
        // SAFETY: this was not the end.
        functions = unsafe { functions.add(1) };
    }
}

extern "C" fn new_context(
    _provider: *mut c_void,
    _parent: *mut c_void,
    _functions: *const Dispatch,
) -> *mut c_void {
    (&raw const CONTEXT).cast_mut().cast()
}

extern "C" fn free_context(_context: *mut c_void) {}

/// Settings of the library's own generators – cipher, digest, when to seed anew – mean nothing here and are accepted.
extern "C" fn instantiate(
    _context: *mut c_void,
    strength: c_uint,
    _resistance: c_int,
    _personalisation: *const u8,
    _length: usize,
    _params: *const Param,
) -> c_int {
    c_int::from(strength <= STRENGTH)
}

extern "C" fn uninstantiate(_context: *mut c_void) -> c_int {
    1
}

/// # Safety
/// `out` has `length` bytes that can be written to.
unsafe extern "C" fn generate(
    _context: *mut c_void,
    out: *mut u8,
    length: usize,
    strength: c_uint,
    _resistance: c_int,
    _additional: *const u8,
    _additional_length: usize,
) -> c_int {
    // SAFETY: the caller gives the buffer.
    c_int::from(strength <= STRENGTH && unsafe { fill(out, length) })
}

/// The kernel takes care of its seed.
extern "C" fn reseed(
    _context: *mut c_void,
    _resistance: c_int,
    _entropy: *const u8,
    _entropy_length: usize,
    _additional: *const u8,
    _additional_length: usize,
) -> c_int {
    1
}

/// A nonce for another generator: as long as the longest that it takes, up to its strength.
///
/// # Safety
/// `out` is null or has `most` bytes that can be written to.
unsafe extern "C" fn nonce(
    _context: *mut c_void,
    out: *mut u8,
    strength: c_uint,
    least: usize,
    most: usize,
) -> usize {
    let length = bytes(strength).max(least).min(most);
    // SAFETY: the caller gives the buffer.
    if out.is_null() || unsafe { fill(out, length) } { length } else { 0 }
}

/// There is no state, so there is nothing to lock, and nothing that was not erased.
extern "C" fn succeed(_context: *mut c_void) -> c_int {
    1
}

extern "C" fn gettable_params(_context: *mut c_void, _provider: *mut c_void) -> *const Param {
    PARAMS.as_ptr()
}

extern "C" fn settable_params(_context: *mut c_void, _provider: *mut c_void) -> *const Param {
    NO_PARAMS.as_ptr()
}

/// # Safety
/// `params` is null or a list with an end.
unsafe extern "C" fn get_params(_context: *mut c_void, params: *mut Param) -> c_int {
    // SAFETY: the caller's list has an end.
    let whole = unsafe {
        abi::answer(params, |name| {
            [(c"state", READY), (c"strength", STRENGTH), (c"max_request", MAX_REQUEST)]
                .into_iter()
                .find_map(|(known, number)| name.is(known).then_some(Value::Number(number)))
        })
    };
    c_int::from(whole)
}

extern "C" fn set_params(_context: *mut c_void, _params: *const Param) -> c_int {
    1
}

/// Seed for another generator. Returns its length, 0 for failure.
///
/// # Safety
/// `out` can be written to.
unsafe extern "C" fn get_seed(
    _context: *mut c_void,
    out: *mut *mut u8,
    entropy: c_int,
    least: usize,
    most: usize,
    _resistance: c_int,
    _additional: *const u8,
    _additional_length: usize,
) -> usize {
    let length = bytes(c_uint::try_from(entropy).unwrap_or(0)).max(least).min(most);
    // SAFETY: the library's function has this type.
    let Some(allocate) = (unsafe { function::<Allocate>(&ALLOCATOR) }) else { return 0 };
    // SAFETY: the library takes no file for none.
    let seed = unsafe { allocate(length, c"".as_ptr(), 0) }.cast::<u8>();
    if seed.is_null() {
        return 0;
    }
    // SAFETY: the buffer was allocated with this length.
    if !unsafe { fill(seed, length) } {
        // SAFETY: the buffer was allocated with this length and is not used any more.
        unsafe { clear_seed(ptr::null_mut(), seed, length) };
        return 0;
    }
    // SAFETY: the caller gives the pointer to be written to.
    unsafe { *out = seed };
    length
}

/// # Safety
/// `seed` comes from [`get_seed`], with this length.
unsafe extern "C" fn clear_seed(_context: *mut c_void, seed: *mut u8, length: usize) {
    // SAFETY: the library's function has this type.
    if let Some(free) = unsafe { function::<Free>(&FREER) } {
        // SAFETY: the library's allocator has made the buffer.
        unsafe { free(seed.cast(), length, c"".as_ptr(), 0) };
    }
}

/// # Safety
/// `out` has `length` bytes that can be written to.
unsafe fn fill(out: *mut u8, length: usize) -> bool {
    if length == 0 {
        return true;
    }
    // SAFETY: the caller gives the buffer; what was in it is not read.
    kernel::fill(unsafe { slice::from_raw_parts_mut(out, length) })
}

/// Bytes with as many bits.
const fn bytes(bits: c_uint) -> usize {
    bits.div_ceil(8) as usize
}

/// # Safety
/// The pointer is null or to a function of type `F`, which is a pointer to a function.
unsafe fn function<F: Copy>(pointer: &AtomicPtr<()>) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut ()>()) };
    let pointer = pointer.load(Ordering::Relaxed);
    // SAFETY: the caller says that it is of this type.
    (!pointer.is_null()).then(|| unsafe { core::mem::transmute_copy(&pointer) })
}
