//! Full-screen terminals of commands, and their common style.

use std::time::Duration;

use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Alignment;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Cell};
use ratatui::{DefaultTerminal, Frame, Terminal};

use crate::CommandError;

pub(crate) const DIM: Style = Style::new().fg(Color::DarkGray);
pub(crate) const HEAD: Style = Style::new().fg(Color::Cyan);
pub(crate) const GOOD: Style = Style::new().fg(Color::Green);
pub(crate) const WARN: Style = Style::new().fg(Color::Yellow);
pub(crate) const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// The terminal. It is in raw mode while something is shown, and is always restored afterwards.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal; `instead` says what to do without one.
    pub(crate) fn open(instead: &str) -> Result<Self, CommandError> {
        let terminal = ratatui::try_init()
            .map_err(|error| CommandError::Failed(format!("no terminal to draw on ({error}); {instead}")))?;
        Ok(Self { terminal })
    }

    pub(crate) fn draw(&mut self, render: impl FnOnce(&mut Frame<'_>)) -> Result<(), CommandError> {
        self.terminal.draw(render).map(drop).map_err(CommandError::failed)
    }

    /// Returns a key that was pressed within the time.
    pub(crate) fn key(&mut self, patience: Duration) -> Result<Option<KeyEvent>, CommandError> {
        if event::poll(patience).map_err(CommandError::failed)?
            && let Event::Key(key) = event::read().map_err(CommandError::failed)?
            && key.kind != KeyEventKind::Release
        {
            return Ok(Some(key));
        }
        Ok(None)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// True for the keys that end a view.
pub(crate) fn is_quit(key: &KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// Returns one frame as text, without spaces at the ends of lines.
pub(crate) fn text_of(
    width: u16,
    height: u16,
    render: impl FnOnce(&mut Frame<'_>),
) -> Result<String, CommandError> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(CommandError::failed)?;
    terminal.draw(render).map_err(CommandError::failed)?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in 0..height {
        let line: String = (0..width).map(|column| buffer[(column, row)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// Returns a frame with a title.
pub(crate) fn panel(title: &str) -> Block<'_> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(DIM)
        .title(Span::styled(format!(" {title} "), HEAD.add_modifier(Modifier::BOLD)))
}

/// Returns the command's name for the top left corner.
pub(crate) fn name_plate(name: &str) -> Span<'_> {
    Span::styled(
        format!(" {name} "),
        Style::new().fg(Color::Black).bg(Color::Cyan).add_modifier(Modifier::BOLD),
    )
}

/// Returns the help for keys, for the bottom line.
pub(crate) fn key_help<'a>(keys: &[(&'a str, &'a str)]) -> Vec<Span<'a>> {
    keys.iter()
        .flat_map(|(key, what)| {
            [
                Span::styled(format!(" {key}"), HEAD.add_modifier(Modifier::BOLD)),
                Span::raw(format!(" {what} ")),
            ]
        })
        .collect()
}

/// Returns a cell whose text is aligned to the right.
pub(crate) fn right<'a>(text: impl Into<String>, style: Style) -> Cell<'a> {
    Cell::from(Line::styled(text.into(), style).alignment(Alignment::Right))
}
