"""What follows when something ends or moves; a walk through it reads downwards."""
