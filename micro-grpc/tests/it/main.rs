//! Servers and clients over loopback: found through a registry, cut short, overloaded, ended.

mod calls;
mod faults;
mod fixture;
mod server;
