//! Mutations of a WGSL text: one token becomes another, as in a slip of the hand.

use std::ops::Range;

/// A change of one token.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Bytes of the text.
    at: Range<usize>,
    to: String,
}

impl Mutation {
    /// The text with the token changed.
    pub fn apply(&self, text: &str) -> String {
        [&text[..self.at.start], &self.to, &text[self.at.end..]].concat()
    }

    /// Line of the text, from 1.
    pub fn line(&self, text: &str) -> usize {
        text[..self.at.start].matches('\n').count() + 1
    }

    /// The line with the change marked in it.
    pub fn describe(&self, text: &str) -> String {
        let start = text[..self.at.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[self.at.end..].find('\n').map_or(text.len(), |at| self.at.end + at);
        let (before, after) = (&text[start..self.at.start], &text[self.at.end..end]);
        let line = format!("{before}[{} -> {}]{after}", &text[self.at.clone()], self.to);
        line.trim().to_string()
    }
}

const BARRIER: &str = "workgroupBarrier";

/// What an operator may become.
const OPERATORS: [(&str, &[&str]); 26] = [
    ("<<=", &[">>="]),
    (">>=", &["<<="]),
    ("+=", &["-=", "="]),
    ("-=", &["+=", "="]),
    ("*=", &["/=", "="]),
    ("/=", &["*=", "="]),
    ("%=", &["/=", "="]),
    ("<=", &["<", ">"]),
    (">=", &[">", "<"]),
    ("==", &["!="]),
    ("!=", &["=="]),
    ("&&", &["||"]),
    ("||", &["&&"]),
    ("<<", &[">>"]),
    (">>", &["<<"]),
    ("++", &[]),
    ("->", &[]),
    ("+", &["-", "*"]),
    ("-", &["+", "*"]),
    ("*", &["/", "+"]),
    ("/", &["*"]),
    ("%", &["/", "*"]),
    ("<", &["<=", ">="]),
    (">", &[">=", "<="]),
    ("&", &["|"]),
    ("^", &["|"]),
];

/// Names that stand for the two sides of one thing, and are easily taken for each other.
const PAIRS: [(&str, &str); 19] = [
    ("max", "min"),
    ("true", "false"),
    ("workgroup_max", "workgroup_sum"),
    ("i", "j"),
    ("row", "column"),
    ("rows", "columns"),
    ("low", "high"),
    ("first", "end"),
    ("m", "n"),
    ("h", "w"),
    ("p", "q"),
    ("x", "y"),
    ("z", "w"),
    ("in_first", "out_first"),
    ("stored_h", "stored_w"),
    ("KERNEL_H", "KERNEL_W"),
    ("STRIDE_H", "STRIDE_W"),
    ("PADDING_H", "PADDING_W"),
    ("outputs", "inputs"),
];

/// All mutations of a text's code: operators, numbers off by one, barriers, swapped names, swapped arguments of `select`. The
/// declarations that the host reads (bindings, overrides, structs, attributes), types and comments stay.
pub fn mutations(text: &str) -> Vec<Mutation> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let word = &text[token.clone()];
        let previous = at.checked_sub(2).map_or("", |n| &text[tokens[n].clone()]);
        let mut push = |at: Range<usize>, to: &str| found.push(Mutation { at, to: to.to_string() });
        match word {
            // `@workgroup_size(256)`
            "@" => at = if follows(text, &tokens, at + 1, "(") { closing(text, &tokens, at + 1) } else { at + 1 },
            "struct" | "override" | "alias" | "enable" => {
                at = (at..tokens.len()).find(|&n| matches!(&text[tokens[n].clone()], "}" | ";")).map_or(at, |n| n + 1);
            }
            "var" if follows(text, &tokens, at, "<") => {
                at = (at..tokens.len()).find(|&n| &text[tokens[n].clone()] == ";").map_or(at, |n| n + 1);
            }
            BARRIER => push(token.start..tokens[at + 2].end, ""),
            "select" => {
                let [a, b] = arguments(text, &tokens, at);
                let swapped = format!("{}{}{}", &text[b.clone()], &text[a.end..b.start], &text[a.clone()]);
                push(a.start..b.end, &swapped);
            }
            // A type's arguments have no blanks around their brackets.
            "<" if !text[..token.start].ends_with(' ') => {
                at = (at..tokens.len()).find(|&n| &text[tokens[n].clone()] == ">").map_or(at, |n| n + 1);
            }
            "-" | "!" | "&" if !is_operand(previous) => {
                if word != "&" {
                    push(token.clone(), "");
                }
            }
            _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
                off_by_one(word).for_each(|to| push(token.clone(), &to))
            }
            _ if is_operand(word) => {
                for (one, other) in PAIRS {
                    if word == one || word == other {
                        push(token.clone(), if word == one { other } else { one });
                    }
                }
            }
            _ => {
                let becomes = OPERATORS.iter().find(|(operator, _)| *operator == word).map_or(&[][..], |known| known.1);
                becomes.iter().for_each(|to| push(token.clone(), to));
            }
        }
    }
    found
}

/// The next numbers up and down.
fn off_by_one(token: &str) -> impl Iterator<Item = String> {
    let hexadecimal = token.strip_prefix("0x");
    let digits = token.trim_end_matches(if hexadecimal.is_some() { &['u', 'i'][..] } else { &['u', 'i', 'f'] });
    let suffix = &token[digits.len()..];
    let whole = match hexadecimal {
        Some(_) => u64::from_str_radix(&digits[2..], 16).ok(),
        None => digits.parse().ok(),
    };
    let near = match (whole, digits.parse::<f32>()) {
        (Some(number), _) => {
            [number.checked_add(1), number.checked_sub(1)].map(|near| near.map(|near| format!("{near}{suffix}")))
        }
        // A number so large that one more is the same stays.
        (None, Ok(number)) if number + 1.0 != number => [Some(format!("{:?}{suffix}", number + 1.0)), None],
        _ => [None, None],
    };
    near.into_iter().flatten()
}

fn follows(text: &str, tokens: &[Range<usize>], at: usize, word: &str) -> bool {
    tokens.get(at).is_some_and(|token| &text[token.clone()] == word)
}

fn is_operand(word: &str) -> bool {
    word.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '}' | ')' | ']'))
        && !matches!(word, "return" | "}")
}

/// The token after the bracket that closes the one at `at`.
fn closing(text: &str, tokens: &[Range<usize>], at: usize) -> usize {
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match &text[token.clone()] {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return n + 1;
        }
    }
    tokens.len()
}

/// The first two arguments of a call whose opening bracket is token `open`.
fn arguments(text: &str, tokens: &[Range<usize>], open: usize) -> [Range<usize>; 2] {
    let mut at = open + 1;
    [(); 2].map(|()| {
        let first = at;
        while &text[tokens[at].clone()] != "," {
            at = if follows(text, tokens, at, "(") || follows(text, tokens, at, "[") {
                closing(text, tokens, at)
            } else {
                at + 1
            };
        }
        at += 1;
        tokens[first].start..tokens[at - 2].end
    })
}

fn name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$')
}

/// Bytes of the name that `rest` begins with, `${...}` inside it included.
fn name_length(rest: &str) -> usize {
    let mut at = 0;
    loop {
        let left = &rest[at..];
        at += match left.strip_prefix("${").and_then(|inner| inner.find('}')) {
            Some(close) => close + 3,
            None if left.starts_with(name) => 1,
            None => return at,
        };
    }
}

/// Where the tokens are. Names of the text expander (`sum$i_${j}u`) are one token.
fn tokens(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        } else if first.is_ascii_digit() {
            let end = |(n, c): (usize, char)| {
                let exponent_sign = matches!(c, '-' | '+') && rest[..n].ends_with('e') && !rest.starts_with("0x");
                !(c.is_ascii_alphanumeric() || c == '.' || exponent_sign)
            };
            rest.char_indices().find(|&place| end(place)).map_or(rest.len(), |(n, _)| n)
        } else if name(first) {
            name_length(rest)
        } else {
            let operator = OPERATORS.iter().find(|(operator, _)| rest.starts_with(operator));
            operator.map_or(first.len_utf8(), |(operator, _)| operator.len())
        };
        found.push(at..at + length);
        at += length;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_changes() {
        let source = "@group(0) @binding(1) var<storage> x: array<f32, 4>;\n\
                      let y$i = select(a + 1u, b[max(i, 0xfu)], -c <= 2.0); // 7 + 7\n";
        let texts: Vec<String> =
            mutations(source).iter().map(|m| m.apply(source).lines().nth(1).unwrap().into()).collect();
        let expected = [
            "let y$i = select(b[max(i, 0xfu)], a + 1u, -c <= 2.0); // 7 + 7",
            "let y$i = select(a - 1u, b[max(i, 0xfu)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a * 1u, b[max(i, 0xfu)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 2u, b[max(i, 0xfu)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 0u, b[max(i, 0xfu)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[min(i, 0xfu)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(j, 0xfu)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(i, 16u)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(i, 14u)], -c <= 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(i, 0xfu)], c <= 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(i, 0xfu)], -c < 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(i, 0xfu)], -c > 2.0); // 7 + 7",
            "let y$i = select(a + 1u, b[max(i, 0xfu)], -c <= 3.0); // 7 + 7",
        ];
        assert_eq!(texts, expected);
    }
}
