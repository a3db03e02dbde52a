//! Cursors over the packed bodies of commands and events: little endian, strings with an i32 length.

/// Fault of a body that is shorter than its layout, or has an invalid field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The body ends before the field.
    Short {
        /// Length that the field needs, bytes.
        required: usize,
    },
    /// A length field is negative.
    NegativeLength {
        /// Offset of the length field.
        offset: usize,
    },
    /// Text that is not UTF-8.
    Text {
        /// Offset of the text.
        offset: usize,
    },
}

/// Reads fields one after the other.
pub(crate) struct WireReader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> WireReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.offset.saturating_add(length);
        let taken = self.bytes.get(self.offset..end).ok_or(WireError::Short { required: end })?;
        self.offset = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_le_bytes)
    }

    /// Bytes with an i32 length before them.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let offset = self.offset;
        let length = self.i32()?;
        let length = usize::try_from(length).map_err(|_| WireError::NegativeLength { offset })?;
        self.take(length)
    }

    /// Text with an i32 length before it.
    pub(crate) fn text(&mut self) -> Result<&'a str, WireError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| WireError::Text { offset: self.offset - bytes.len() })
    }

    /// Skips the undefined filler after a text (spec 01 §1). A body may end inside the filler; then the next field
    /// fails.
    pub(crate) fn align_4(&mut self) {
        self.offset = (self.offset + 3) & !3;
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.offset >= self.bytes.len()
    }
}

/// Writes fields one after the other. Fields that do not fit are counted but not written.
pub(crate) struct WireWriter<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl<'a> WireWriter<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, length: 0 }
    }

    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        let end = self.length + value.len();
        if let Some(target) = self.bytes.get_mut(self.length..end) {
            target.copy_from_slice(value);
        }
        self.length = end;
        self
    }

    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.i32(value.len() as i32).raw(value)
    }

    pub(crate) fn align_4(&mut self) -> &mut Self {
        self.zero_until((self.length + 3) & !3)
    }

    pub(crate) fn zero_until(&mut self, length: usize) -> &mut Self {
        while self.length < length {
            self.raw(&[0]);
        }
        self
    }

    /// Returns the length that was written, or the length that is needed when the buffer was too small.
    pub(crate) fn finish(&self) -> Result<usize, usize> {
        if self.length <= self.bytes.len() { Ok(self.length) } else { Err(self.length) }
    }
}
