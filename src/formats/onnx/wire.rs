//! The wire format of Protocol Buffers, as far as ONNX files need it (protobuf.dev/programming-guides/encoding).

use std::borrow::Cow;

/// A message: numbered fields, one after the other. Long fields are borrowed, so that weights are not copied.
#[derive(Clone, Debug, Default)]
pub(super) struct Message<'a> {
    pieces: Vec<Cow<'a, [u8]>>,
    length: usize,
}

const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

impl<'a> Message<'a> {
    pub fn integer(mut self, field: u64, value: i64) -> Self {
        self.tag(field, VARINT);
        self.varint(value as u64);
        self
    }

    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.tag(field, FIXED32);
        self.append(&value.to_le_bytes());
        self
    }

    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes().to_vec())
    }

    pub fn bytes(mut self, field: u64, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        self.tag(field, LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.length += bytes.len();
        self.pieces.push(bytes);
        self
    }

    pub fn message(mut self, field: u64, message: Message<'a>) -> Self {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(message.length as u64);
        self.length += message.length;
        self.pieces.extend(message.pieces);
        self
    }

    /// A repeated field.
    pub fn messages(self, field: u64, messages: impl IntoIterator<Item = Message<'a>>) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, message))
    }

    /// The message in bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| &**piece)
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    fn tag(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    /// Seven bits a byte, the lowest first; the top bit says that there are more.
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.append(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.append(&[value as u8]);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        match self.pieces.last_mut() {
            Some(Cow::Owned(piece)) => piece.extend(bytes),
            _ => self.pieces.push(bytes.to_vec().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format's own documentation, and a number below 0.
    #[test]
    fn as_documented() {
        let bytes = |message: &Message| {
            let bytes: Vec<u8> = message.pieces().flatten().copied().collect();
            assert_eq!(bytes.len(), message.length());
            bytes
        };
        let number = Message::default().integer(1, 150);
        assert_eq!(bytes(&number), [0x08, 0x96, 0x01]);
        let text = Message::default().text(2, "testing");
        assert_eq!(bytes(&text), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        let nested = text.message(3, number).float(1, 1.0);
        assert_eq!(bytes(&nested)[9..], [0x1a, 0x03, 0x08, 0x96, 0x01, 0x0d, 0, 0, 0x80, 0x3f]);
        assert_eq!(bytes(&Message::default().integer(1, -2))[1..], [0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
}
