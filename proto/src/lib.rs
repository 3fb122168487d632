//! Wire types of Hearth, generated from the protobuf sources in `proto/`, ranges of protocol versions, and the exit
//! report of monitors. This crate contains no other logic.

#![forbid(unsafe_code)]

#[cfg(feature = "exit-report")]
mod exit_report;
#[cfg(feature = "control-plane")]
mod secret;
mod version;

#[cfg(feature = "exit-report")]
pub use exit_report::ExitReport;
pub use version::Versions;

/// The protocol between the monitor and its controllers.
pub mod vmm {
    /// Version 1 of the control protocol and of the contents of snapshots; see `control.proto` and `state.proto` in
    /// `proto/hearth/vmm/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.vmm.v1.rs"));
    }
}

/// The protocol between the guest's agent and the host.
pub mod guest {
    /// Version 1 of the agent's protocol; see `agent.proto` in `proto/hearth/guest/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.guest.v1.rs"));
    }
}

/// The API of the control plane.
#[cfg(feature = "control-plane")]
pub mod microvms {
    /// API version 2025-09-09; see `microvms.proto` in `proto/hearth/microvms/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.microvms.v1.rs"));
    }
}

/// Operations of a host in addition to those of the AWS API.
#[cfg(feature = "control-plane")]
pub mod host {
    /// Version 1; see `host.proto` in `proto/hearth/host/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.host.v1.rs"));
    }
}

/// The records that the daemon stores.
#[cfg(feature = "control-plane")]
pub mod store {
    /// Version 1; see `records.proto` in `proto/hearth/store/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.store.v1.rs"));
    }
}

/// The encoded descriptors of the services: a `google.protobuf.FileDescriptorSet` with all imports.
#[cfg(feature = "control-plane")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control_plane.bin"));
