//! convoy's parts together, up to the binary. One program for all: each would link the library anew, and end with one test alone.

#[path = "../common/mod.rs"]
mod common;

mod autodiff;
mod backends;
mod bindings;
mod cli;
mod data;
mod devices;
mod models;
mod philox;
mod shapes;
