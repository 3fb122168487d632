//! A monitor process with disks, network and agent, booted or restored.
