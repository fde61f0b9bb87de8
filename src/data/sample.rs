//! Practice pictures: simple shapes that differ in size, place and angle, on a noisy ground. Each class prefers some
//! hues, but neighbours share a part of theirs.
//!
//! Every number is Philox of (seed, picture), so that the set is the same everywhere and a larger one holds the
//! smaller.

use std::fs;
use std::path::{Path, PathBuf};

use jpeg_encoder::{ColorType, Encoder};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::rng::{Philox, stream, unit};

/// The classes that can be drawn, in the order in which they are used.
pub const SHAPES: [&str; 6] = ["circle", "square", "triangle", "cross", "ring", "star"];

/// A file that tells a set from a folder of somebody's own pictures. Hidden: [`super::scan`] passes it over.
const MARKER: &str = ".convoy-sample.json";
const JPEG_QUALITY: u8 = 90;
/// Several, so that a part of the picture that augmentation cuts out still shows the class.
const SHAPES_IN_A_PICTURE: usize = 5;
/// How far a picture's hue may be from its class's own: more than half of what lies between two classes, so that colour
/// gives a first, early success in training, and the form must tell the rest apart.
const HUE_SPREAD: f32 = 0.2;

/// Which pictures to draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleOptions {
    /// Pictures of each class, at least 1.
    pub count: usize,
    /// Classes: the first so many of [`SHAPES`], from 2 on.
    pub classes: usize,
    /// Width and height in pixels, 16 to 1024.
    pub size: usize,
    /// Which set; two seeds share no picture.
    pub seed: u64,
}

impl SampleOptions {
    fn check(&self) -> Result<()> {
        let known = SHAPES.len();
        if !(2..=known).contains(&self.classes) {
            let shapes = SHAPES.join(", ");
            return Err(Error::input(format!("--classes is {}; expected 2 to {known} ({shapes})", self.classes)));
        }
        if !(16..=1024).contains(&self.size) {
            return Err(Error::input(format!("--size is {}; expected 16 to 1024 pixels", self.size)));
        }
        if !(1..=1_000_000).contains(&self.count) {
            return Err(Error::input(format!(
                "--count is {}; expected 1 to 1000000 pictures of each class",
                self.count
            )));
        }
        Ok(())
    }

    /// Names of the files: `circle.0.jpg`, `circle.1.jpg` ...
    fn files(&self) -> impl Iterator<Item = (usize, usize, String)> {
        let (count, classes) = (self.count, self.classes.min(SHAPES.len()));
        (0..classes).flat_map(move |class| (0..count).map(move |n| (class, n, format!("{}.{n}.jpg", SHAPES[class]))))
    }
}

/// Draws the set into `dir`, which is made if need be, and returns the number of pictures. An earlier set there is
/// replaced; what else is there stays.
///
/// # Errors
/// [`Error::Input`] if an option is out of range or the folder holds files that are no such set, [`Error::Io`] if it
/// cannot be written.
pub fn write(dir: &Path, options: &SampleOptions) -> Result<usize> {
    options.check()?;
    fs::create_dir_all(dir).map_err(Error::io("cannot make the folder", dir))?;
    let marker = dir.join(MARKER);
    if marker.exists() {
        remove(dir, &marker)?;
    } else if fs::read_dir(dir).map_err(Error::io("cannot list the folder", dir))?.next().is_some() {
        return Err(Error::input(format!(
            "{}: the folder holds files that `convoy sample` did not draw; expected an empty or a new one. \
             Give another folder",
            dir.display()
        )));
    }
    // First, so that a set whose drawing was interrupted can be replaced.
    let description = serde_json::to_string(options).map_err(|error| Error::input(error.to_string()))?;
    write_file(marker, description.as_bytes())?;
    let mut pictures = 0;
    for (class, n, name) in options.files() {
        let mut jpeg = Vec::new();
        let side = options.size as u16;
        Encoder::new(&mut jpeg, JPEG_QUALITY)
            .encode(&draw(class, n, options), side, side, ColorType::Rgb)
            .map_err(|error| Error::input(format!("{name}: {error}")))?;
        write_file(dir.join(name), &jpeg)?;
        pictures += 1;
    }
    Ok(pictures)
}

fn write_file(path: PathBuf, bytes: &[u8]) -> Result<()> {
    fs::write(&path, bytes).map_err(Error::io("cannot write the file", &path))
}

/// Removes the pictures of the set that the marker describes.
fn remove(dir: &Path, marker: &Path) -> Result<()> {
    let text = fs::read_to_string(marker).map_err(Error::io("cannot read the set's description", marker))?;
    let old: SampleOptions = serde_json::from_str(&text).map_err(|error| {
        Error::input(format!(
            "{}: not a description of a practice set ({error}). Give another folder",
            marker.display()
        ))
    })?;
    for (_, _, name) in old.files() {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("cannot replace the picture", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The random numbers of one picture, one after the other.
struct Dice {
    philox: Philox,
    index: u32,
}

impl Dice {
    /// Uniform in [from, to).
    fn between(&mut self, from: f32, to: f32) -> f32 {
        self.index += 1;
        from + (to - from) * self.philox.uniform(self.index - 1)
    }
}

/// RGB in 0 to 1 of a hue (1 is all round: red, green, blue at 0, 1/3, 2/3), a saturation and a value.
fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|peak| {
        let away = (hue - peak).rem_euclid(1.0);
        let away = away.min(1.0 - away) * 6.0;
        value * (1.0 - saturation * (away - 1.0).clamp(0.0, 1.0))
    })
}

/// The middle of a class's hues: even steps among the first three classes, the next three between them.
fn class_hue(class: usize) -> f32 {
    class as f32 / 3.0 + (class / 3) as f32 / 6.0
}

/// Pixels, u8 `[size, size, 3]`, of picture `n` of a class.
fn draw(class: usize, n: usize, options: &SampleOptions) -> Vec<u8> {
    let size = options.size;
    let step = (n * SHAPES.len() + class) as u32;
    let philox = Philox { seed: options.seed, stream: stream::SAMPLE, step };
    let mut dice = Dice { philox, index: 0 };

    // A dull ground that fades from one colour to a similar one, in any direction.
    let ground = hsv(dice.between(0.0, 1.0), dice.between(0.0, 0.35), dice.between(0.1, 0.9));
    let fade = [(); 3].map(|()| dice.between(-0.2, 0.2));
    let direction = dice.between(0.0, std::f32::consts::TAU);
    let noise = dice.between(0.02, 0.12);
    let hue = class_hue(class) + dice.between(-HUE_SPREAD, HUE_SPREAD);
    let shapes: Vec<Shape> = (0..SHAPES_IN_A_PICTURE).map(|_| Shape::random(class, hue, &mut dice)).collect();

    // The noise has numbers of its own, far from those of the dice.
    let words = |pixel: usize| philox.block((1 << 20) + pixel as u32);
    let mut pixels = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            // Places are in units of the picture's side, around its middle.
            let place = [x, y].map(|at| (at as f32 + 0.5) / size as f32 - 0.5);
            let along = place[0] * direction.cos() + place[1] * direction.sin();
            let mut colour: [f32; 3] = std::array::from_fn(|c| ground[c] + fade[c] * along);
            for shape in &shapes {
                let cover = (0.5 - shape.distance(place) * size as f32).clamp(0.0, 1.0);
                colour = std::array::from_fn(|c| colour[c] + cover * (shape.colour[c] - colour[c]));
            }
            let words = words(y * size + x);
            pixels.extend((0..3).map(|c| {
                let value = colour[c] + noise * (2.0 * unit(words[c]) - 1.0);
                (value.clamp(0.0, 1.0) * 255.0).round() as u8
            }));
        }
    }
    pixels
}

/// One shape of a picture.
struct Shape {
    class: usize,
    centre: [f32; 2],
    radius: f32,
    /// Cosine and sine of the angle by which it is turned.
    turn: [f32; 2],
    colour: [f32; 3],
}

impl Shape {
    fn random(class: usize, hue: f32, dice: &mut Dice) -> Self {
        let radius = dice.between(0.1, 0.22);
        let angle = dice.between(0.0, std::f32::consts::TAU);
        let room = 0.5 - radius;
        Shape {
            class,
            centre: [dice.between(-room, room), dice.between(-room, room)],
            radius,
            turn: [angle.cos(), angle.sin()],
            colour: hsv(hue + dice.between(-0.04, 0.04), dice.between(0.6, 1.0), dice.between(0.55, 1.0)),
        }
    }

    /// How far `place` is outside the shape's edge; negative inside.
    fn distance(&self, place: [f32; 2]) -> f32 {
        let [dx, dy] = [place[0] - self.centre[0], place[1] - self.centre[1]];
        let [cos, sin] = self.turn;
        let [x, y] = [(dx * cos + dy * sin) / self.radius, (dy * cos - dx * sin) / self.radius];
        let from_centre = x.hypot(y);
        if from_centre > 1.5 {
            return self.radius; // beyond the furthest corner of any shape
        }
        let bar = |x: f32, y: f32| (x.abs() - 1.0).max(y.abs() - 0.3);
        let unit_shape = match SHAPES[self.class] {
            "circle" => from_centre - 0.9,
            "square" => x.abs().max(y.abs()) - 0.8,
            "triangle" => (0..3).map(|corner| toward(corner as f32 / 3.0, x, y)).fold(f32::MIN, f32::max) - 0.55,
            "cross" => bar(x, y).min(bar(y, x)),
            "ring" => (from_centre - 0.75).abs() - 0.2,
            _ => from_centre - (0.7 + 0.3 * (5.0 * y.atan2(x)).cos()), // the star
        };
        unit_shape * self.radius
    }
}

/// How far (x, y) reaches in the direction of `turns` of a full circle.
fn toward(turns: f32, x: f32, y: f32) -> f32 {
    let (sin, cos) = (turns * std::f32::consts::TAU).sin_cos();
    x * cos + y * sin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ScanOptions, scan};

    fn options(count: usize, classes: usize) -> SampleOptions {
        SampleOptions { count, classes, size: 32, seed: 1 }
    }

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_set_repeats_can_be_scanned_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("new/b"));
        assert_eq!(write(&a, &options(4, 3)).unwrap(), 12);
        write(&b, &options(4, 3)).unwrap();
        assert_eq!(files(&a), files(&b));
        let scanned = scan(&a, &ScanOptions { split: 0.75, seed: 0, val: None, classes: None }).unwrap();
        assert_eq!(scanned.classes, ["circle", "square", "triangle"]);
        assert_eq!((scanned.train.len(), scanned.val.len()), (9, 3));

        fs::write(a.join("mine.txt"), "a note").unwrap();
        write(&a, &options(2, 2)).unwrap();
        let names: Vec<_> = files(&a).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [MARKER, "circle.0.jpg", "circle.1.jpg", "mine.txt", "square.0.jpg", "square.1.jpg"]);
        assert!(files(&a)[1..3].iter().all(|file| files(&b).contains(file)), "a smaller set is part of a larger one");
    }

    #[test]
    fn hues_are_red_green_blue_and_between() {
        for (hue, rgb) in [(0.0, [1.0, 0.0, 0.0]), (1.0 / 3.0, [0.0, 1.0, 0.0]), (2.0 / 3.0, [0.0, 0.0, 1.0])] {
            assert!(hsv(hue, 1.0, 1.0).iter().zip(rgb).all(|(a, b)| (a - b).abs() < 1e-5));
        }
        assert!(hsv(-0.5, 1.0, 0.5).iter().zip([0.0, 0.5, 0.5]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-5));
        assert_eq!(hsv(0.7, 0.0, 0.3), [0.3; 3]);
    }

    #[test]
    fn somebodys_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cat.0.jpg"), "mine").unwrap();
        let error = write(dir.path(), &options(2, 2)).unwrap_err();
        assert!(error.to_string().contains("did not draw; expected an empty or a new one"), "{error}");
        assert_eq!(files(dir.path()).len(), 1);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [options(0, 2), options(1, 1), options(1, 7), SampleOptions { size: 4, ..options(1, 2) }] {
            assert_eq!(write(&dir.path().join("x"), &bad).unwrap_err().exit_code(), 2);
        }
        assert!(!dir.path().join("x").exists());
    }
}
