//! Text expander, run by build.rs for unrolled shader code: register tiles want named variables, since accumulators in an array that a loop
//! indexes end up in memory. A shader stays plain WGSL but for directive lines:
//!
//! ```text
//! //# for i in 0..4
//!     var sum$i = 0.0;
//! //# end
//! ```
//!
//! The lines between are repeated with each value in place of `$i`. The values are a range of whole numbers or a list of
//! words (`//# for element in f32 vec4f`); loops nest, and inner bounds may use outer names. A name is made of letters
//! only, so that `sum$i_$j` means what it seems to; `${i}u` where letters follow.

/// Replaces the loops of `source` by their text. Each line of the result comes with its line number in `source`, from 1;
/// lines outside of loops are kept as they are.
///
/// # Errors
/// A line number and what is wrong there: a malformed directive, a loop without end, an end without loop, an unknown name.
pub fn expand(source: &str) -> Result<Vec<(usize, String)>, (usize, String)> {
    let lines: Vec<(usize, &str)> = source.lines().enumerate().map(|(index, line)| (index + 1, line)).collect();
    let mut out = Vec::with_capacity(lines.len());
    block(&lines, &mut Vec::new(), &mut out)?;
    Ok(out)
}

type Names = Vec<(String, String)>;

fn block(lines: &[(usize, &str)], names: &mut Names, out: &mut Vec<(usize, String)>) -> Result<(), (usize, String)> {
    let mut at = 0;
    while let Some(&(number, line)) = lines.get(at) {
        let located = |message: String| (number, message);
        at += 1;
        let Some(directive) = line.trim().strip_prefix("//# ") else {
            out.push((number, substitute(line, names).map_err(located)?));
            continue;
        };
        let (name, values) = header(&substitute(directive, names).map_err(located)?).map_err(located)?;
        let length = body(&lines[at..]).ok_or_else(|| located("`for` without `end`".into()))?;
        for value in values {
            names.push((name.clone(), value));
            block(&lines[at..at + length], names, out)?;
            names.pop();
        }
        at += length + 1;
    }
    Ok(())
}

/// `for NAME in VALUES`.
fn header(directive: &str) -> Result<(String, Vec<String>), String> {
    let expected = || format!("expected `for NAME in FIRST..END` or `for NAME in WORD...`, got `{directive}`");
    let mut words = directive.split_whitespace();
    let (Some("for"), Some(name), Some("in")) = (words.next(), words.next(), words.next()) else {
        return Err(expected());
    };
    if !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(format!("a name is made of letters only, got `{name}`"));
    }
    let words: Vec<&str> = words.collect();
    let values = match words[..] {
        [] => return Err(expected()),
        [range] if range.contains("..") => {
            let (first, end) = range.split_once("..").ok_or_else(expected)?;
            let number = |text: &str| text.parse::<u32>().map_err(|_| expected());
            (number(first)?..number(end)?).map(|value| value.to_string()).collect()
        }
        _ => words.into_iter().map(String::from).collect(),
    };
    Ok((name.into(), values))
}

/// Lines before the `end` that belongs to a loop whose first inner line is `lines[0]`.
fn body(lines: &[(usize, &str)]) -> Option<usize> {
    let mut depth = 0;
    for (index, (_, line)) in lines.iter().enumerate() {
        match line.trim().strip_prefix("//# ") {
            Some("end") if depth == 0 => return Some(index),
            Some("end") => depth -= 1,
            Some(_) => depth += 1,
            None => {}
        }
    }
    None
}

fn substitute(line: &str, names: &Names) -> Result<String, String> {
    let mut parts = line.split('$');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        // `${i}u`: braces where letters follow.
        let (part, close) = part.strip_prefix('{').map_or((part, ""), |inner| (inner, "}"));
        let length = part.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(part.len());
        let (name, rest) = part.split_at(length);
        let (_, value) = names.iter().rfind(|(n, _)| n == name).ok_or_else(|| format!("no loop names `${name}`"))?;
        out.push_str(value);
        out.push_str(rest.strip_prefix(close).ok_or_else(|| format!("`${{{name}` lacks its `}}`"))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn text(source: &str) -> String {
        expand(source).unwrap().into_iter().map(|(_, line)| line + "\n").collect()
    }

    #[test]
    fn plain_text_is_kept() {
        let plain = "// a comment\nfn f() { }\n";
        assert_eq!(text(plain), plain);
    }

    #[test]
    fn loops_nest_and_inner_bounds_use_outer_names() {
        let source = "//# for n in 1 2\n//# for i in 0..$n\nvar c$n_$i = ${i}u;\n//# end\nn$n\n//# end\n";
        assert_eq!(text(source), "var c1_0 = 0u;\nn1\nvar c2_0 = 0u;\nvar c2_1 = 1u;\nn2\n");
    }

    #[test]
    fn lines_remember_where_they_came_from() {
        let lines: Vec<usize> = expand("a\n//# for i in 0..2\nb\n//# end\nc").unwrap().iter().map(|l| l.0).collect();
        assert_eq!(lines, [1, 3, 3, 5]);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (source, line, message) in [
            ("\n//# for i in 0..2\nx", 2, "`for` without `end`"),
            ("//# end", 1, "expected `for"),
            ("//# for i in 0..x\n//# end", 1, "expected `for"),
            ("//# for i2 in 0..1\n//# end", 1, "a name is made of letters"),
            ("x$i", 1, "no loop names `$i`"),
            ("//# for i in 0..1\nx${i\n//# end", 2, "`${i` lacks its `}`"),
        ] {
            let error = expand(source).unwrap_err();
            assert!(error.0 == line && error.1.starts_with(message), "{source}: {error:?}");
        }
    }
}
