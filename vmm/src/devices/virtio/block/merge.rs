//! stub
use std::fs::File;
/// stub
pub fn merge(_: &[File], _: &File, _: &dyn Fn() -> bool) -> Result<(), std::io::Error> {
    Ok(())
}
