"""What maintainers run: pins, generated pages."""
