"""Moving portraits."""
