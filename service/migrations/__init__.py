"""Schema of the records' database, step by step; ``service.store`` applies what is missing at start-up."""
