//! Tests of the socket device with a mock driver on one side and real sockets on the other.

mod broker;
mod connect;
mod driver;
mod flow;
mod hostile;
mod property;
mod storm;
