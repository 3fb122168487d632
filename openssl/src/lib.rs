//! A provider of OpenSSL 3 whose random numbers are the kernel's, asked for anew in each request.
//!
//! OpenSSL keeps the state of its random number generators in memory, where the snapshot of a microVM has it: all clones of the snapshot
//! would go on with the same numbers. The kernel's own generator gets new entropy before an app goes on.
//!
//! The library finds this provider through `openssl.cnf`, which the image builder completes (`image-builder/src/build/scripts/`). It
//! stands there as one more `CTR-DRBG`, preferred and not required (`properties = ?provider=hearth`): where the file is missing
//! or the kernel refuses, the library goes on with its own generator, and an app that asks for FIPS gets that of FIPS.
//!
//! One file works in every process of an architecture: it has neither a C library nor the standard library, makes one system call, and
//! knows of OpenSSL only what providers and the library must agree on (provider(7), provider-rand(7), `openssl/core_dispatch.h`).

#![no_std]
// Loops over bytes stay loops, where a C library's functions would be called otherwise.
#![no_builtins]

mod abi;
mod kernel;
mod rand;

use core::ffi::{c_char, c_int, c_void};
use core::panic::PanicInfo;
use core::ptr;

use abi::{Algorithm, Dispatch, Function, Param};

/// `OSSL_OP_RAND`.
const RANDOM: c_int = 5;
/// The functions of a provider (provider-base(7)).
const TEARDOWN: c_int = 1024;
const GETTABLE_PARAMS: c_int = 1025;
const GET_PARAMS: c_int = 1026;
const QUERY_OPERATION: c_int = 1027;

static FUNCTIONS: [Dispatch; 5] = [
    Dispatch::new(TEARDOWN, teardown as *const ()),
    Dispatch::new(GETTABLE_PARAMS, gettable_params as *const ()),
    Dispatch::new(GET_PARAMS, get_params as *const ()),
    Dispatch::new(QUERY_OPERATION, query_operation as *const ()),
    Dispatch::END,
];

static ALGORITHMS: [Algorithm; 2] = [
    Algorithm {
        names: c"CTR-DRBG".as_ptr(),
        properties: c"provider=hearth".as_ptr(),
        functions: rand::FUNCTIONS.as_ptr(),
        description: c"The kernel's random numbers".as_ptr(),
    },
    Algorithm::END,
];

static PARAMS: [Param; 4] = [
    Param::described(c"name", abi::UTF8_POINTER),
    Param::described(c"version", abi::UTF8_POINTER),
    Param::described(c"status", abi::INTEGER),
    Param::END,
];

/// Makes the provider known to the library. Refuses where the kernel gives no random numbers, so that the library keeps its own.
///
/// # Safety
/// `functions` is a list of the library's functions with an end; both other pointers can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_provider_init(
    handle: *const c_void,
    functions: *const Dispatch,
    out: *mut *const Dispatch,
    context: *mut *mut c_void,
) -> c_int {
    let mut probe = [0; 16];
    if !kernel::fill(&mut probe) {
        return 0;
    }
    // SAFETY: the caller's list has an end.
    unsafe { rand::learn(functions) };
    // SAFETY: the caller gives both pointers to be written to.
    unsafe {
        *out = FUNCTIONS.as_ptr();
        *context = handle.cast_mut();
    }
    1
}

extern "C" fn teardown(_context: *mut c_void) {}

extern "C" fn gettable_params(_context: *mut c_void) -> *const Param {
    PARAMS.as_ptr()
}

/// # Safety
/// `params` is a list with an end.
unsafe extern "C" fn get_params(_context: *mut c_void, params: *mut Param) -> c_int {
    // SAFETY: the caller's list has an end.
    let whole = unsafe {
        abi::answer(params, |name| {
            [
                (c"name", abi::Value::Text(c"Hearth: random numbers of the kernel")),
                (c"version", abi::Value::Text(VERSION)),
                (c"status", abi::Value::Number(1)),
            ]
            .into_iter()
            .find_map(|(known, value)| name.is(known).then_some(value))
        })
    };
    c_int::from(whole)
}

/// This package's version.
const VERSION: &core::ffi::CStr =
    match core::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

/// # Safety
/// `no_cache` can be written to.
unsafe extern "C" fn query_operation(
    _context: *mut c_void,
    operation: c_int,
    no_cache: *mut c_int,
) -> *const Algorithm {
    // SAFETY: the caller gives the pointer to be written to.
    unsafe { *no_cache = 0 };
    if operation == RANDOM { ALGORITHMS.as_ptr() } else { ptr::null() }
}

/// Nothing here panics; the language asks for it.
#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    kernel::abort()
}

// What the tables hold is as the library declares it.
const _: () =
    assert!(size_of::<Dispatch>() == 16 && size_of::<Function>() == 8 && size_of::<*const c_char>() == 8);
