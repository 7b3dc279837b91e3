//! Servers and clients over loopback: found through a registry, cut short, overloaded, ended; and
//! beside go-micro v4.

mod calls;
mod faults;
mod fixture;
mod go_micro;
mod raw;
mod server;
