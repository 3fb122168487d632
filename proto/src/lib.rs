//! Wire types of Hearth, generated from the protobuf sources in `proto/`. No logic lives here.

/// The monitor and its controllers.
pub mod vmm {
    /// Version 1 of the control protocol and of what snapshots hold; see `control.proto` and `state.proto` in
    /// `proto/hearth/vmm/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.vmm.v1.rs"));
    }
}

/// The guest's agent and the host.
pub mod guest {
    /// Version 1 of the agent's protocol; see `agent.proto` in `proto/hearth/guest/v1/`.
    #[expect(missing_docs, reason = "generated code: the documentation is the proto file's")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/hearth.guest.v1.rs"));
    }
}
