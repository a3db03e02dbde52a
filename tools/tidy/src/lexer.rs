//! The tokens of Rust that a module tree needs: words, strings and signs, without comments.

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    Word(&'a str),
    /// The text between the quotes, as it is written.
    Text(&'a str),
    Sign(char),
}

/// The tokens of a source text, in order. Text that is no Rust gives tokens, too.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { source, at: 0 };
    std::iter::from_fn(|| lexer.next()).collect()
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let rest = self.rest();
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                self.at += first.len_utf8();
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += block_comment(rest);
            } else {
                return Some(self.token(first));
            }
        }
    }

    fn token(&mut self, first: char) -> Token<'a> {
        let rest = self.rest();
        if let Some((start, end, length)) = text(rest) {
            self.at += length;
            return Token::Text(&rest[start..end]);
        }
        if first == '\'' {
            self.at += quote(rest);
            return Token::Sign(first);
        }
        let length = word(rest);
        if length > 0 {
            self.at += length;
            return Token::Word(&rest[..length]);
        }
        self.at += first.len_utf8();
        Token::Sign(first)
    }
}

fn word(rest: &str) -> usize {
    rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
}

/// Length of a block comment with those inside it.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Start and end of a string's content, and length of the whole, if a string literal begins here.
fn text(rest: &str) -> Option<(usize, usize, usize)> {
    let prefix = rest.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let is_raw = rest[..prefix].contains('r');
    let hashes = if is_raw { rest[prefix..].bytes().take_while(|byte| *byte == b'#').count() } else { 0 };
    let start = prefix + hashes;
    if !rest[start..].starts_with('"') {
        return None;
    }
    let start = start + 1;
    let end = if is_raw {
        let close = format!("\"{}", "#".repeat(hashes));
        start + rest[start..].find(&close)?
    } else {
        closing_quote(rest, start)?
    };
    Some((start, end, end + 1 + hashes))
}

fn closing_quote(rest: &str, start: usize) -> Option<usize> {
    let mut is_escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(start) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// Length of a character literal, or of the quote of a lifetime.
fn quote(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((at, '\\')) => {
            rest.bytes().skip(at + 2).position(|byte| byte == b'\'').map_or(1, |end| at + 2 + end + 1)
        }
        Some((at, first)) if rest[at + first.len_utf8()..].starts_with('\'') => at + first.len_utf8() + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, tokens};

    fn words(source: &str) -> Vec<&str> {
        let word = |token| if let Token::Word(word) = token { Some(word) } else { None };
        tokens(source).into_iter().filter_map(word).collect()
    }

    #[test]
    fn comments_strings_and_characters_hide_what_they_hold() {
        let cases = [
            ("mod a; // mod b;\nmod c;", vec!["mod", "a", "mod", "c"]),
            ("/* mod a; /* mod b; */ mod c; */ mod d;", vec!["mod", "d"]),
            (r#"let x = "mod \" a;"; mod b;"#, vec!["let", "x", "mod", "b"]),
            (r###"let x = br#"mod " a;"#; mod b;"###, vec!["let", "x", "mod", "b"]),
            (r"'\'' '{' fn f<'a>() {} mod b;", vec!["fn", "f", "a", "mod", "b"]),
        ];
        for (source, expected) in cases {
            assert_eq!(words(source), expected, "{source}");
        }
    }

    #[test]
    fn what_is_no_rust_ends() {
        for source in ["\"", "/*", "'", "'\\", "r#\"", "b", "r", "\\", "'é'"] {
            let _ = tokens(source);
        }
    }
}
