//! The curves of several runs beside each other.

use std::path::Path;

use serde::Serialize;

use super::chart::{self, Chart, Line};
use crate::error::{Error, Result};
use crate::formats::safetensors;
use crate::train::position::Position;

/// A run's errors from epoch to epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curves {
    /// Of the run's folder.
    pub run: String,
    /// In order.
    pub points: Vec<Point>,
}

/// What a run was at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// From 1.
    pub epoch: usize,
    /// Since the run's start.
    pub seconds: f64,
    /// 1 - top-1 over the epoch's training pictures, as training saw them: with augmentation and dropout.
    pub training_error: f64,
    /// 1 - top-1 of the validation pictures.
    pub validation_error: f64,
}

impl Curves {
    /// Reads the `metrics.csv` of a run's folder; `None` of a run without a whole epoch.
    ///
    /// # Errors
    /// When the folder is no run's, or the file holds something else (the message names the line).
    pub fn read(run: &Path) -> Result<Option<Curves>> {
        let path = run.join("metrics.csv");
        if !path.is_file() {
            let folder = run.display();
            let message = format!("{folder}: no run: it has no metrics.csv; give a folder such as runs/NAME");
            return if run.join("config.toml").is_file() { Ok(None) } else { Err(Error::input(message)) };
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("cannot read the metrics", &path))?;
        let points = parse(&text).map_err(|message| Error::input(format!("{}: {message}", path.display())))?;
        if points.is_empty() || (points.len() == 1 && stopped_within(run)) {
            return Ok(None);
        }
        let name =
            std::path::absolute(run).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Some(Curves { run: name.unwrap_or_else(|| run.display().to_string()), points }))
    }

    /// The first point whose training error is no larger than `error`.
    pub fn reaches(&self, error: f64) -> Option<&Point> {
        self.points.iter().find(|point| point.training_error <= error)
    }

    /// The smallest validation error.
    pub fn best(&self) -> f64 {
        self.points.iter().map(|point| point.validation_error).fold(f64::INFINITY, f64::min)
    }

    /// Training and validation error of all runs against their epochs, as an SVG picture.
    pub fn picture(runs: &[Curves]) -> String {
        let chart = |title: &str, error: fn(&Point) -> f64| {
            let line = |run: &Curves| Line {
                name: run.run.clone(),
                points: run.points.iter().map(|point| (point.epoch as f64, 100.0 * error(point))).collect(),
            };
            Chart { title: title.into(), x: "epoch".into(), lines: runs.iter().map(line).collect() }
        };
        chart::svg(&[
            chart("training error, %", |point| point.training_error),
            chart("validation error, %", |point| point.validation_error),
        ])
    }
}

/// Whether a run of one row was stopped within its epoch, by what is kept to go on from there.
fn stopped_within(run: &Path) -> bool {
    let kept = safetensors::load_metadata(&run.join("last.safetensors"));
    kept.and_then(|metadata| Position::restore(&metadata)).is_ok_and(|position| position.epochs == 0)
}

/// The points of `epoch,step,split,loss,top1,top5,lr,images_per_second,seconds`: each a train row and its val row.
fn parse(text: &str) -> Result<Vec<Point>, String> {
    let (mut points, mut steps): (Vec<Point>, Vec<f64>) = Default::default();
    let mut training = None;
    for (number, line) in text.lines().enumerate().skip(1) {
        let wrong = || format!("line {}: expected a row of metrics, got {line:?}", number + 1);
        let fields: Vec<&str> = line.split(',').collect();
        let [epoch, step, split, _, top1, _, _, _, seconds] = fields[..] else { return Err(wrong()) };
        let value = |field: &str| field.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(wrong);
        let (epoch, top1) = (epoch.parse().map_err(|_| wrong())?, value(top1)?);
        match (split, training) {
            ("train", _) => training = Some(1.0 - top1),
            ("val", Some(training_error)) => {
                let (seconds, validation_error) = (value(seconds)?, 1.0 - top1);
                // Of an epoch within which the run was stopped the last row counts.
                if points.last().is_some_and(|last| last.epoch == epoch) {
                    points.pop();
                    steps.pop();
                }
                points.push(Point { epoch, seconds, training_error, validation_error });
                steps.push(value(step)?);
            }
            _ => return Err(wrong()),
        }
    }
    // The last epoch is none yet where it has fewer steps than the others.
    if let [.., before, last] = steps[..]
        && last - before < before / (steps.len() - 1) as f64
    {
        points.pop();
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "epoch,step,split,loss,top1,top5,lr,images_per_second,seconds\n";

    #[test]
    fn rows_become_points() {
        let rows = "1,4,train,0.7,0.5,1,0.1,3.00,10.00\n1,4,val,0.6,0.75,1,0.1,9.00,11.00\n\
                    2,8,train,0.5,0.8,1,0.1,3.00,20.00\n2,8,val,0.6,0.625,1,0.1,9.00,21.00\n";
        let run = Curves { run: "a".into(), points: parse(&format!("{HEADER}{rows}")).unwrap() };
        assert_eq!(run.points.len(), 2);
        assert_eq!(run.best(), 0.25);
        assert_eq!(run.reaches(0.25).map(|point| (point.epoch, point.seconds)), Some((2, 21.0)));
        assert_eq!(run.reaches(0.1), None);
        let stopped = "3,9,train,0.4,0.9,1,0.1,3.00,22.00\n3,9,val,0.5,0.75,1,0.1,9.00,22.50\n";
        let more = "3,12,train,0.4,0.8,1,0.1,3.00,25.00\n3,12,val,0.5,0.75,1,0.1,9.00,26.00\n";
        assert_eq!(parse(&format!("{HEADER}{rows}{stopped}")).unwrap(), run.points);
        let points = parse(&format!("{HEADER}{rows}{stopped}{more}")).unwrap();
        assert_eq!((points.len(), points[2].seconds), (3, 26.0));
        assert!(parse(&format!("{HEADER}1,2,val,0,0,0,0,0,0")).unwrap_err().contains("line 2"));
        assert!(parse(&format!("{HEADER}{rows}half a row")).unwrap_err().contains("line 6"));
    }
}
