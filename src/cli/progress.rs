//! A run as it is watched: a bar per epoch on a terminal, the tutorial's plain lines otherwise.

use std::io::{self, IsTerminal};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::console::Console;
use convoy::Result;
use convoy::train::Event;
use convoy::train::metrics::Means;

/// Prints a run's events.
pub struct Progress {
    console: Console,
    terminal: bool,
    bar: Option<ProgressBar>,
    /// The running epoch's validation, and whether it is the best.
    validated: Option<(Means, bool)>,
}

impl Progress {
    pub fn new(console: Console) -> Progress {
        Progress { console, terminal: io::stdout().is_terminal(), bar: None, validated: None }
    }

    /// Prints an event.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn show(&mut self, event: &Event) -> Result<()> {
        if let Event::Skipped { relative, reason } = event {
            self.suspended(|console| console.warn(format_args!("skipped {relative}: {reason}")));
            return Ok(());
        }
        if let Event::Notice { text, warning: true } = event {
            self.suspended(|console| console.warn(text));
            return Ok(());
        }
        match (self.console.is_quiet(), self.terminal) {
            (true, _) => Ok(()),
            (_, true) => self.draw(event),
            (_, false) => self.plain(event),
        }
    }

    /// Removes the bar, when a run ends within an epoch.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn plain(&self, event: &Event) -> Result<()> {
        match event {
            Event::Step { epoch, iteration, iterations, loss, .. } => {
                self.console.say(format_args!("epoch:{epoch},iter{iteration}/{iterations},loss:{loss}"))
            }
            Event::Validated { means, .. } => self.console.say(format_args!("ACC:{:.2}%", 100.0 * means.top1)),
            Event::Epoch { epoch, epochs, means, .. } => {
                self.console.say(format_args!("epoch:{epoch}/{epochs},avg_loss:{}", means.loss as f32))
            }
            Event::Notice { text, .. } => self.console.say(text),
            Event::Started { .. } | Event::Validating { .. } | Event::Skipped { .. } => Ok(()),
        }
    }

    fn draw(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Started { epoch, epochs, done, iterations } => {
                self.bar = Some(new_bar(*epoch, *epochs, *iterations, *done));
            }
            Event::Step { iteration, means, images_per_second, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(*iteration);
                    bar.set_message(format!(
                        ", loss {:.4}, accuracy {:.1} %, {images_per_second:.1} pictures/s, {:#} left",
                        means.loss,
                        100.0 * means.top1,
                        HumanDuration(bar.eta())
                    ));
                }
            }
            Event::Validating { done, pictures } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!(", validating {done}/{pictures}"));
                }
            }
            Event::Validated { means, best, .. } => self.validated = Some((*means, *best)),
            Event::Epoch { epoch, epochs, means, images_per_second } => {
                self.clear();
                let validation = match self.validated.take() {
                    Some((val, best)) => {
                        let star = if best { ", the best so far" } else { "" };
                        format!("; validation loss {:.4}, accuracy {:.1} %{star}", val.loss, 100.0 * val.top1)
                    }
                    None => String::new(),
                };
                self.console.say(format_args!(
                    "epoch {epoch}/{epochs}: loss {:.4}, accuracy {:.1} %, {images_per_second:.1} pictures/s{validation}",
                    means.loss,
                    100.0 * means.top1,
                ))?;
            }
            Event::Notice { text, .. } => {
                let mut said = Ok(());
                self.suspended(|console| said = console.say(text));
                said?;
            }
            Event::Skipped { .. } => {}
        }
        Ok(())
    }

    fn suspended(&self, print: impl FnOnce(&Console)) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print(&self.console)),
            None => print(&self.console),
        }
    }
}

/// A bar that shows at once. What it knows after the first step only is in the message.
fn new_bar(epoch: usize, epochs: usize, iterations: u64, done: u64) -> ProgressBar {
    let template = "{prefix} [{wide_bar}] {pos}/{len}{msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(iterations), ProgressDrawTarget::stdout());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(format!("epoch {epoch}/{epochs}"));
    bar.set_position(done);
    bar.reset_eta();
    bar.tick();
    bar
}
