//! One TLS for all clients of this process: rustls with ring.

/// Makes ring the process's cryptography for TLS, which every HTTP client asks for as it is made. Does nothing after the
/// first call, and leaves alone what a program has chosen for itself.
pub fn install_provider() {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
