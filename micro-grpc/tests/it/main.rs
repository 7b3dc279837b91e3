//! Servers and clients over loopback: found through a registry, cut short, overloaded, ended.

mod calls;
mod fixture;
mod server;
