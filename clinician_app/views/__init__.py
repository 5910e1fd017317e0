"""Routes: parse, call one function of the part, render. Each module is one blueprint."""
