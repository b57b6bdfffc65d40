"""What is asked: tasks and sheets of questions as data, and what they mean in a vocabulary."""
