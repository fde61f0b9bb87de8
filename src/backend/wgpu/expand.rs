//! Text expander for unrolled shader code: register tiles want named variables, since accumulators in an array that a loop
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

/// Replaces the loops of `source` by their text. Lines outside of loops are kept as they are.
///
/// # Errors
/// A line number and what is wrong with it: a malformed directive, a loop without end, an end without loop, an unknown name.
pub fn expand(source: &str) -> Result<String, String> {
    let lines: Vec<(usize, &str)> = source.lines().enumerate().map(|(index, line)| (index + 1, line)).collect();
    let mut out = String::with_capacity(source.len());
    block(&lines, &mut Vec::new(), &mut out)?;
    Ok(out)
}

type Names = Vec<(String, String)>;

fn block(lines: &[(usize, &str)], names: &mut Names, out: &mut String) -> Result<(), String> {
    let mut at = 0;
    while let Some(&(number, line)) = lines.get(at) {
        let located = |message: String| format!("line {number}: {message}");
        at += 1;
        let Some(directive) = line.trim().strip_prefix("//# ") else {
            out.push_str(&substitute(line, names).map_err(located)?);
            out.push('\n');
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

    #[test]
    fn plain_text_is_kept() {
        let text = "// a comment\nfn f() { }\n";
        assert_eq!(expand(text).unwrap(), text);
    }

    #[test]
    fn loops_nest_and_inner_bounds_use_outer_names() {
        let text = "//# for n in 1 2\n//# for i in 0..$n\nvar c$n_$i = 0;\n//# end\nn$n\n//# end\n";
        assert_eq!(expand(text).unwrap(), "var c1_0 = 0;\nn1\nvar c2_0 = 0;\nvar c2_1 = 0;\nn2\n");
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, message) in [
            ("\n//# for i in 0..2\nx", "line 2: `for` without `end`"),
            ("//# end", "line 1: expected `for"),
            ("//# for i in 0..x\n//# end", "line 1: expected `for"),
            ("//# for i2 in 0..1\n//# end", "line 1: a name is made of letters"),
            ("x$i", "line 1: no loop names `$i`"),
        ] {
            let error = expand(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
