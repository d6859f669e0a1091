package compat

// Known are the differences that exist.
var Known = []Row{}
