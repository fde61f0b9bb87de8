//! A line chart as SVG: text that any browser draws, without a font of our own.

use std::fmt::Write;

/// Width and height of a chart with its margins, pixels; one of many lines is higher.
const SIZE: [f64; 2] = [560.0, 360.0];
/// Left, top, right and bottom margin: for the axes' numbers and names.
const MARGINS: [f64; 4] = [56.0, 34.0, 16.0, 44.0];
/// Of the lines, in turn: Okabe and Ito's, which the colour-blind tell apart (<https://jfly.uni-koeln.de/color/>), without yellow.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];
/// Dashes of the lines that have a colour for the first time, the second, and so on.
const DASHES: [&str; 4] = ["none", "8 4", "2 3", "8 3 2 3"];
/// Height of a name in the legend.
const LEGEND_ROW: f64 = 16.0;
/// Length of a line in the legend.
const LEGEND_LINE: f64 = 24.0;
/// Width of a letter, about.
const LETTER: f64 = 7.5;
/// Numbers at an axis, at most.
const TICKS: f64 = 6.0;

/// A named line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// Lines over a common axis; y begins at 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below the horizontal axis.
    pub x: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Charts of the same lines side by side, and beside them which line is whose: a whole SVG file.
pub fn svg(charts: &[Chart]) -> String {
    let lines = charts.first().map_or(&[][..], |chart| &chart.lines);
    let longest = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let legend = SIZE[0] * charts.len() as f64;
    let width = legend + LEGEND_LINE + 12.0 + LETTER * longest as f64;
    let height = SIZE[1].max(LEGEND_ROW * lines.len() as f64 + MARGINS[1] + MARGINS[3]);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (n, chart) in charts.iter().enumerate() {
        chart.draw(&mut text, n as f64 * SIZE[0], height);
    }
    for (n, line) in lines.iter().enumerate() {
        let y = MARGINS[1] + 12.0 + LEGEND_ROW * n as f64;
        let end = legend + LEGEND_LINE;
        text += &format!("<path d=\"M{legend:.1} {:.1}H{end:.1}\" {}/>\n", y - 4.0, stroke(n));
        text += &(label(end + 6.0, y, "start", &line.name) + "\n");
    }
    text + "</svg>\n"
}

/// How line `n` is drawn.
fn stroke(n: usize) -> String {
    let (colour, dashes) = (COLOURS[n % COLOURS.len()], DASHES[n / COLOURS.len() % DASHES.len()]);
    format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"")
}

fn label(x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(words))
}

impl Chart {
    /// Writes the chart with its left edge at `left`, `whole` pixels high.
    fn draw(&self, text: &mut String, left: f64, whole: f64) {
        let [from_left, from_top, from_right, from_bottom] = MARGINS;
        let (width, height) = (SIZE[0] - from_left - from_right, whole - from_top - from_bottom);
        let (x0, y0) = (left + from_left, whole - from_bottom);
        let points = || self.lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let largest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
        let (x_step, y_step) = (step(largest(|p| p.0)), step(largest(|p| p.1)));
        let end = |step: f64, largest: f64| (largest / step).ceil().max(1.0) * step;
        let (x_end, y_end) = (end(x_step, largest(|p| p.0)), end(y_step, largest(|p| p.1)));
        let place = |(x, y): (f64, f64)| (x0 + x / x_end * width, y0 - y / y_end * height);
        let mut add = |line: std::fmt::Arguments| {
            let _ = writeln!(text, "{line}"); // a String takes everything
        };
        add(format_args!("{}", label(x0 + width / 2.0, from_top - 14.0, "middle", &self.title)));
        add(format_args!("{}", label(x0 + width / 2.0, whole - 8.0, "middle", &self.x)));
        for n in 0..=(y_end / y_step).round() as usize {
            let (_, y) = place((0.0, n as f64 * y_step));
            let right = x0 + width;
            add(format_args!("<path d=\"M{x0:.1} {y:.1}H{right:.1}\" stroke=\"#dddddd\"/>"));
            add(format_args!("{}", label(x0 - 6.0, y + 4.0, "end", &number(n as f64 * y_step))));
        }
        for n in 0..=(x_end / x_step).round() as usize {
            let (x, _) = place((n as f64 * x_step, 0.0));
            add(format_args!("{}", label(x, y0 + 18.0, "middle", &number(n as f64 * x_step))));
        }
        add(format_args!(
            "<path d=\"M{x0:.1} {from_top:.1}V{y0:.1}H{:.1}\" fill=\"none\" stroke=\"#444444\"/>",
            x0 + width
        ));
        for (n, line) in self.lines.iter().enumerate() {
            let finite = line.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let places: Vec<(f64, f64)> = finite.map(|&point| place(point)).collect();
            if let [(x, y)] = places[..] {
                add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" {}/>", stroke(n)));
            }
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            add(format_args!("<polyline points=\"{}\" {}/>", path.join(" "), stroke(n)));
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that a few of them reach `largest`.
fn step(largest: f64) -> f64 {
    let rough = if largest > 0.0 { largest / TICKS } else { 1.0 };
    let power = 10.0_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// Without the digits that an f64 is off by.
fn number(value: f64) -> String {
    format!("{}", (value * 1e9).round() / 1e9)
}

/// For XML, which has no control characters either.
fn escaped(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control()).collect::<String>();
    kept.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (largest, expected) in [(0.0, 1.0), (6.0, 1.0), (7.0, 2.0), (30.0, 5.0), (31.0, 10.0), (0.24, 0.05)] {
            assert!((step(largest) - expected).abs() < 1e-9, "{largest}: {}", step(largest));
        }
        assert_eq!(number(0.1 + 0.2), "0.3");
    }

    #[test]
    fn lines_are_drawn_to_scale() {
        let line = Line { name: "a < b".into(), points: vec![(0.0, 0.0), (6.0, 60.0), (3.0, f64::NAN)] };
        let chart = Chart { title: "error".into(), x: "epoch".into(), lines: vec![line] };
        let text = svg(&[chart.clone(), chart]);
        // The axes end where the largest values are; the second chart is its width further right.
        assert!(
            text.contains("points=\"56.0,316.0 544.0,34.0\"") && text.contains("points=\"616.0,316.0 1104.0,34.0\""),
            "{text}"
        );
        assert!(text.contains("a &lt; b"));
        let line = |n: usize| Line { name: n.to_string(), points: vec![(0.0, 1.0), (1.0, n as f64)] };
        let many = svg(&[Chart { title: "many".into(), x: "epoch".into(), lines: (0..28).map(line).collect() }]);
        let styles: std::collections::HashSet<&str> =
            many.lines().filter(|l| l.starts_with("<polyline")).map(|l| l.split_once("stroke=").unwrap().1).collect();
        assert_eq!(styles.len(), 28, "each line has its own look");
        let largest = many.lines().filter_map(|l| l.split_once("y=\"")?.1.split('"').next()?.parse::<f64>().ok());
        let height: f64 = many.split_once("height=\"").unwrap().1.split('"').next().unwrap().parse().unwrap();
        assert!(largest.fold(0.0, f64::max) < height, "all of it is within the picture");
        assert!(svg(&[Chart { title: String::new(), x: String::new(), lines: Vec::new() }]).ends_with("</svg>\n"));
    }
}
