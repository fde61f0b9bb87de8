//! JPEG, by zune-jpeg.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// A JPEG file whose headers were read.
pub struct Jpeg<'a>(JpegDecoder<ZCursor<&'a [u8]>>);

impl<'a> Jpeg<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// When they are broken, in the library's words.
    pub fn open(bytes: &'a [u8]) -> Result<Jpeg<'a>, String> {
        // CMYK and YCCK come out as RGB too, Adobe's inverted inks turned.
        let options = DecoderOptions::default().set_strict_mode(false).jpeg_set_out_colorspace(ColorSpace::RGB);
        let options = options.set_max_width(usize::MAX).set_max_height(usize::MAX); // the caller has limits of its own
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(|error| error.to_string())?;
        Ok(Jpeg(decoder))
    }

    /// Width and height, pixels.
    pub fn size(&self) -> (usize, usize) {
        self.0.dimensions().unwrap_or_default()
    }

    /// Pixels, u8 `[height, width, 3]`. What is missing at the file's end is grey, and not told.
    ///
    /// # Errors
    /// When the file is broken, in the library's words.
    pub fn rgb(&mut self) -> Result<Vec<u8>, String> {
        self.0.decode().map_err(|error| error.to_string())
    }

    /// Exif data, from the byte order mark on.
    pub fn exif(&self) -> Option<&[u8]> {
        self.0.exif().map(Vec::as_slice)
    }
}
