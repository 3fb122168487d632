//! stub
#[derive(Debug)]
pub struct Resolver;
impl Resolver {
    pub fn from_system() -> std::io::Result<Self> {
        Ok(Self)
    }
    pub async fn answer(&self, _m: &[u8]) -> Vec<u8> {
        vec![]
    }
}
