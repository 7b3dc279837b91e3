//! The suite of the broker port.
