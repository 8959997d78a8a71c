/* An eventfd(2) that wakes a thread. */
#pragma once

/* Whoever sleeps on it wakes up. It is not lost when the system refuses for a moment: nobody would raise it again. Any thread. */
void event_raise(int fd);
