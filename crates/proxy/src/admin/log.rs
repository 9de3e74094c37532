//! `GET /-/log` and `POST /-/log?level=`: the level of the program's log.

use http::StatusCode;
use serde_json::json;

use super::query_fields::query_fields;
use super::reply::{AdminResponse, json as reply, text};
use crate::app::App;
use crate::record::log_level::LogLevel;

/// Shows the level.
pub(super) fn look(app: &App) -> AdminResponse {
    match app.lifecycle.log_level.get() {
        Some(level) => reply(StatusCode::OK, &json!({ "level": level.name() })),
        None => without_level(),
    }
}

/// Sets the level until the process ends.
pub(super) fn set(app: &App, query: Option<&str>) -> AdminResponse {
    let asked = match query_fields(query, ["level"]) {
        Ok([asked]) => asked.unwrap_or_default(),
        Err(failure) => return failure.answer(),
    };
    let Ok(asked) = LogLevel::parse(&asked) else {
        return text(
            StatusCode::BAD_REQUEST,
            "say level=, and error, warn, info, debug or trace\n",
        );
    };
    let Some(level) = app.lifecycle.log_level.get() else {
        return without_level();
    };
    level.set(asked);
    look(app)
}

fn without_level() -> AdminResponse {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the log of this process belongs to the program around it\n",
    )
}
