//! Servers and clients over loopback: found through a registry, cut short, overloaded, ended;
//! beside go-micro v4; and called by DTM.

mod calls;
mod dtm;
mod faults;
mod fixture;
mod go_micro;
mod long_status;
mod raw;
mod server;
