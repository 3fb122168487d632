//! The versions of the control protocol between a monitor and its controllers: `hearth.vmm.v1` over a named Unix
//! socket.

use hearth_proto::Versions;

/// The versions of the protocol that this program speaks. A change that an older program would misread increases the
/// newest version. The oldest version is that of Hearth 0.2, whose running monitors a newer daemon adopts.
pub const VERSIONS: Versions = Versions::new(2, 2);
/// The feature of monitors that can change the limits of a machine that runs.
pub const LIMITS_FEATURE: &str = "limits";
/// The feature of monitors that bound the storage which a disk's writes take.
pub const ROOM_FEATURE: &str = "room";
/// The protocol version in which a controller sends its first request.
pub const PROTOCOL_VERSION: u32 = VERSIONS.newest();
