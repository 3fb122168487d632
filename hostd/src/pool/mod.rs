//! What is made before it is needed.
