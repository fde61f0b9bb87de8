//! The `convoy` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Mesa's Vulkan layer for the choice of a device asks the Wayland server, and libwayland complains on stderr where there
    // cannot be one. convoy chooses the device itself, so the layer is switched off there.
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    cli::main()
}
