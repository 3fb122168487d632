//! Wire types of Hearth, generated from the protobuf sources in `proto/`. No logic lives here.
