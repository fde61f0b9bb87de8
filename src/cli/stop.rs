//! The signals that ask a run to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use convoy::{Error, Result};

/// A flag that Ctrl-C (or the system's request to end) sets; the second time the process ends at once.
pub fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(Error::Interrupted.exit_code().into());
        }
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "\nstopping after this step, to save; again to stop at once");
    };
    let ignored = ignored_signals();
    ctrlc::set_handler(handler).map_err(|e| Error::input(format!("cannot watch for Ctrl-C: {e}")))?;
    ignore(&ignored);
    Ok(stop)
}

/// Of the signals that ctrlc watches, those that whoever started the process had it ignore: nohup does so with SIGHUP.
#[cfg(unix)]
fn ignored_signals() -> Vec<libc::c_int> {
    let ignored = |signal: &libc::c_int| {
        // SAFETY: without a new action sigaction only writes the present one, for which zeros are valid.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        }
    };
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(ignored).collect()
}

#[cfg(unix)]
fn ignore(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: to ignore a signal calls nothing.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(not(unix))]
fn ignored_signals() {}

#[cfg(not(unix))]
fn ignore(_: &()) {}
