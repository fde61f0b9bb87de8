//! Lines of comma-separated values, as RFC 4180 has them, but no line breaks within fields.

/// A field, quoted where it must be.
pub fn field(text: &str) -> String {
    match text.contains([',', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

/// The fields of a line.
pub fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let (mut quoted, mut chars) = (false, line.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        let row = ["plain", "a \"b\", c.jpg", "", "ë,,"];
        let line = row.map(field).join(",");
        assert_eq!(line, "plain,\"a \"\"b\"\", c.jpg\",,\"ë,,\"");
        assert_eq!(fields(&line), row);
        assert_eq!(fields(""), [""]);
    }
}
