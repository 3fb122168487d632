//! A network namespace with a tap per microVM, and what may pass it.
