mod configuration;
mod operations;
