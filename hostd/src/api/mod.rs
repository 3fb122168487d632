//! Wire mapping: gRPC.
